"""Small data sets in their publishers' forms, written here by other code than the sources read them with."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Make = Callable[..., Path]


def python2_pickle(content: object) -> bytes:
    """A pickle of protocol 2 as Python 2 and NumPy 1 wrote it: byte strings, and arrays by ``_reconstruct``."""
    return b"\x80\x02" + _dumped(content) + b"."


def _dumped(value: object) -> bytes:
    if isinstance(value, str | bytes):
        data = value.encode() if isinstance(value, str) else value
        return b"T" + struct.pack("<i", len(data)) + data
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_dumped, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_dumped(key) + _dumped(item) for key, item in value.items()) + b"u"
    assert isinstance(value, np.ndarray)
    assert value.dtype == np.uint8
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n(K\x00t" + _dumped(b"b") + b"tR"
    # The tuple of _reconstruct's arguments starts with a mark before its first member.
    empty = empty.replace(b"cnumpy\nndarray", b"(cnumpy\nndarray", 1)
    dtype = b"cnumpy\ndtype\n(" + _dumped("u1") + _dumped(0) + _dumped(1) + b"tR"
    dtype += b"(" + _dumped(3) + _dumped("|") + b"NNN" + _dumped(-1) + _dumped(-1) + _dumped(0) + b"tb"
    shape = b"(" + b"".join(map(_dumped, value.shape)) + b"t"
    return empty + b"(" + _dumped(1) + shape + dtype + b"\x89" + _dumped(value.tobytes()) + b"tb"


@pytest.fixture
def as_python2() -> Callable[[object], bytes]:
    """``python2_pickle``."""
    return python2_pickle


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """Makes a picture file's bytes: ``picture(width, height, format, mode, seed)``."""

    def make(
        width: int = 64, height: int = 64, form: str = "JPEG", mode: str = "RGB", seed: int = 0, **options: object
    ) -> bytes:
        draws = np.random.default_rng(seed)
        image = Image.fromarray(draws.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)
        file = io.BytesIO()
        image.save(file, form, **options)
        return file.getvalue()

    return make


@pytest.fixture
def write_tree() -> Callable[[Path, Mapping[str, bytes]], Path]:
    """Writes files by relative path below a folder, and gives the folder back."""

    def write(root: Path, files: Mapping[str, bytes]) -> Path:
        for path, data in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        return root

    return write


@pytest.fixture
def tiny_files(picture: Callable[..., bytes]) -> dict[str, bytes]:
    """Tiny ImageNet's tree with 3 classes, 12 + 2 pictures a class; wnids.txt is not sorted."""
    wnids = ["n03", "n01", "n02"]
    files = {
        "wnids.txt": "\n".join(wnids).encode(),
        "words.txt": b"n01\ta thing\n",
        "test/images/test_0.JPEG": picture(seed=999),
    }
    lines = []
    for place, wnid in enumerate(wnids):
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b""
        for number in range(12):
            mode = "L" if number == 5 else "RGB"
            files[f"train/{wnid}/images/{wnid}_{number}.JPEG"] = picture(mode=mode, seed=place * 100 + number)
    for number, wnid in enumerate(["n01", "n02", "n03", "n03", "n01", "n02"]):
        files[f"val/images/val_{number}.JPEG"] = picture(seed=500 + number)
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    files["val/val_annotations.txt"] = "".join(reversed(lines)).encode()
    return files


@pytest.fixture
def tar_gz() -> Make:
    """Packs a folder, under its own name, into a gzipped tar."""

    def pack(folder: Path, target: Path) -> Path:
        with tarfile.open(target, "w:gz") as tar:
            tar.add(folder, folder.name)
        return target

    return pack


@pytest.fixture
def zipped() -> Make:
    """Packs a folder, under its own name, into a zip."""

    def pack(folder: Path, target: Path) -> Path:
        with zipfile.ZipFile(target, "w") as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder.parent))
        return target

    return pack
