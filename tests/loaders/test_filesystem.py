"""Files are read a batch a call, and whatever is not as it was written is looked at by itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from datasets.errors import SampleCorrupt
from loaders.backends.filesystem import FilesystemReader
from loaders.order import Draws
from loaders.pack import pack
from tests.loaders.sources import Expected, decoded, encoded, expected, picture

ANY = Draws(seed=0, epoch=0, training=False)


def reader_of(wanted: Expected, stores: Path) -> FilesystemReader:
    reader = pack(wanted.source, "filesystem", stores, codec=wanted.codec).reader("train")
    assert isinstance(reader, FilesystemReader)
    return reader


def read(reader: FilesystemReader, wanted: Expected, indices: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    out = np.full((len(indices), *wanted.shape), 0xAA, np.uint8)
    reader.read(np.array(indices), out, ANY)
    return out


def file_of(reader: FilesystemReader, index: int) -> Path:
    (found,) = (reader.store.root / "train").rglob(f"{index:08d}.*")
    return found


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize(("codec", "channels"), [("raw", 3), ("raw", 1), ("png", 3), ("jpeg", 3)])
def test_a_batch_is_read_the_same_with_and_without_numba(
    codec: str, channels: int, kernel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures are equal whichever way reads the files, and the path taken says which one did."""
    if not kernel:
        monkeypatch.setitem(sys.modules, "loaders.kernels.files", None)
    else:
        pytest.importorskip("numba", reason="numba is not installed")
    wanted = expected(codec, channels=channels)  # type: ignore[arg-type]
    reader = reader_of(wanted, tmp_path)
    indices = [22, 0, 7, 7, 13]
    assert (read(reader, wanted, indices) == wanted.batch("train", indices, ANY)).all()
    assert reader.path_taken.endswith("a batch a call" if kernel else "a file a call")


@pytest.mark.parametrize("codec", ["png", "jpeg"])
def test_a_picture_that_was_saved_anew_is_read(codec: str, tmp_path: Path) -> None:
    """A file may have become longer or shorter than what was packed: it is read as it is."""
    wanted = expected(codec)  # type: ignore[arg-type]
    reader = reader_of(wanted, tmp_path)
    fresh = picture(np.random.default_rng(8), 12, 10, 3)
    for options in ({"quality": 100}, {"quality": 5}) if codec == "jpeg" else ({"compress_level": 0}, {"compress_level": 9}):
        data = encoded(fresh, codec.upper(), **options)
        file_of(reader, 9).write_bytes(data)
        found = read(reader, wanted, [3, 9, 4])
        assert (found[1] == decoded(data, 3)).all()
        assert (found[[0, 2]] == wanted.batch("train", [3, 4], ANY)).all()


@pytest.mark.parametrize("change", ["longer", "shorter", "other header", "missing", "a folder"])
def test_a_raw_file_that_changed_is_named(change: str, tmp_path: Path) -> None:
    """Amid a batch, a file of pixels that is not as it was written is a SampleCorrupt with its index."""
    wanted = expected("raw")
    reader = reader_of(wanted, tmp_path)
    file, data = file_of(reader, 5), file_of(reader, 5).read_bytes()
    file.unlink()
    if change == "a folder":
        file.mkdir()
    elif change != "missing":
        file.write_bytes({"longer": data + b"\x00", "shorter": data[:-1], "other header": b"P3" + data[2:]}[change])
    with pytest.raises(SampleCorrupt, match="sample 5 of train") as caught:
        read(reader, wanted, [1, 5, 2])
    assert caught.value.index == 5


@pytest.mark.parametrize(("name", "value"), [("labels", 3), ("labels", -1), ("offsets", -5), ("offsets", 1 << 62)])
def test_a_damaged_column_reaches_no_file_beside(name: str, value: int, tmp_path: Path) -> None:
    """A label or an offset that makes no sense is an error or does no harm; nothing outside the store is opened."""
    wanted = expected("jpeg")
    reader = reader_of(wanted, tmp_path)
    column = np.load(reader.store.root / f"train.{name}.npy")
    column[5] = value
    np.save(reader.store.root / f"train.{name}.npy", column)
    if name == "labels":
        with pytest.raises(SampleCorrupt, match=f"its label is {value}"):
            read(reader, wanted, [4, 5])
    else:
        for asked in ([4, 5], [4], [5]):
            assert (read(reader, wanted, asked) == wanted.batch("train", asked, ANY)).all()


def test_names_are_made_as_they_were_written(tmp_path: Path) -> None:
    """Numbers of more than eight digits, and class names of any length and alphabet, are found."""
    files = pytest.importorskip("loaders.kernels.files", reason="numba is not installed")
    names = ["a", "Zürich 5", "x" * 200]
    numbers = [0, 7, 12_345_678, 99_999_999, 100_000_000, 12_345_678_901]
    asked = [(label, number) for label in (2, 0, 1) for number in numbers]
    for label, number in asked:
        (tmp_path / names[label]).mkdir(exist_ok=True)
        (tmp_path / names[label] / f"{number:08d}.jpg").write_bytes(f"{label}/{number}".encode())
    wanted = [f"{label}/{number}".encode() for label, number in asked]
    lengths = np.array([len(data) for data in wanted])
    encoded_names = [os.fsencode(name) for name in names]
    buffer = np.zeros(lengths.sum() + 1, np.uint8)
    folder = os.open(tmp_path, os.O_RDONLY)
    labels, counted = np.array([label for label, _ in asked]), np.array([number for _, number in asked])
    done = files.read_files(
        folder,
        np.frombuffer(b"".join(encoded_names), np.uint8).copy(),
        np.cumsum([len(name) for name in encoded_names]),
        np.frombuffer(b".jpg", np.uint8).copy(),
        labels,
        counted,
        buffer.ctypes.data,
        np.cumsum(lengths) - lengths,
        lengths,
    )
    os.close(folder)
    assert done == len(asked)
    assert bytes(buffer[:-1]) == b"".join(wanted)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """Files that were read, and those that could not be, are closed again."""
    wanted = expected("jpeg")
    reader = reader_of(wanted, tmp_path)
    read(reader, wanted, [0])
    before = len(list(Path("/proc/self/fd").iterdir()))
    file_of(reader, 5).write_bytes(b"\xff\xd8\xff")
    for _ in range(20):
        read(reader, wanted, [0, 1, 2])
        with pytest.raises(SampleCorrupt):
            read(reader, wanted, [4, 5])
    assert len(list(Path("/proc/self/fd").iterdir())) == before
