"""Trees of class folders, of the user's and Imagenette's."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.errors import DatasetCorrupt, DatasetMissing, DatasetUnverified
from datasets.image_folder import GREY_MEAN, GREY_STD, ImageFolder, Imagenette
from datasets.picture import header_at, header_of

Picture = Callable[..., bytes]
Write = Callable[..., Path]


@pytest.fixture
def files(picture: Picture) -> dict[str, bytes]:
    """Two classes, every format, a nested folder, and things that do not count."""
    return {
        "train/cat/b.JPG": picture(40, 30, seed=1),
        "train/cat/a.png": picture(20, 50, "PNG", "RGBA", seed=2),
        "train/cat/nested/0.jpeg": picture(33, 44, seed=3),
        "train/cat b/x.bmp": picture(12, 13, "BMP", seed=4),
        "train/cat b/.hidden.jpg": b"not counted",
        "train/cat b/notes.txt": b"not counted",
        "train/Dog/y.WebP": picture(21, 22, "WEBP", seed=5),
        "train/stray.jpg": b"not counted",
        "train/.cache/z.jpg": b"not counted",
        "val/cat/v.png": picture(9, 8, "PNG", "P", seed=6),
        "val/Dog/w.jpg": picture(7, 6, "JPEG", "CMYK", seed=7),
    }


@pytest.fixture
def folder(tmp_path: Path, files: dict[str, bytes], write_tree: Write) -> Path:
    return write_tree(tmp_path / "photos", files)


def test_pictures_come_by_class_and_name(folder: Path, files: dict[str, bytes]) -> None:
    """Classes are sorted by name, pictures by folder and name, each as its file's own bytes."""
    source = ImageFolder(folder)
    order = ["Dog/y.WebP", "cat/a.png", "cat/b.JPG", "cat/nested/0.jpeg", "cat b/x.bmp"]
    expected = [(files[f"train/{path}"], label) for path, label in zip(order, [0, 1, 1, 1, 2], strict=True)]
    assert list(source.examples("train")) == expected
    assert list(source.examples("val")) == [(files["val/Dog/w.jpg"], 0), (files["val/cat/v.png"], 1)]
    assert source.info.classes == ("Dog", "cat", "cat b")


def test_order_is_that_of_torchvision(tmp_path: Path, picture: Picture, write_tree: Write) -> None:
    """Labels and order are those that torchvision's ImageFolder gives for the same tree."""
    torchvision = pytest.importorskip("torchvision")
    data = picture(8, 8)
    names = [
        "a b/1.jpg",
        "a/10.jpg",
        "a/2.jpg",
        "a/x/1.png",
        "a/x y/1.png",
        "a/x/y/1.png",
        "B/1.jpg",
        "a-b/1.jpg",
        "a/x-y/0.jpg",
    ]
    root = write_tree(tmp_path, {f"{split}/{name}": data for split in ("train", "val") for name in names})
    theirs = torchvision.datasets.ImageFolder(str(root / "train"))
    source = ImageFolder(root)
    assert list(source.info.classes) == theirs.classes
    ours = [(source.where("train", index), label) for index, (_, label) in enumerate(source.examples("train"))]
    assert ours == theirs.imgs


def test_info_of_differing_sizes(folder: Path) -> None:
    """Where sizes differ there is no shape; these are the user's own pictures."""
    info = ImageFolder(folder).info
    assert (info.name, info.verification, info.codec) == ("image_folder:photos", "own", "jpeg")
    assert (info.shape, info.channels, info.counts) == (None, 3, {"train": 5, "val": 2})


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_info_of_one_size(tmp_path: Path, picture: Picture, write_tree: Write, mode: str, channels: int) -> None:
    """Where all pictures have one size it is known beforehand; where all are grey there is one channel."""
    names = ("train/a/1.png", "train/b/1.png", "val/a/1.png")
    info = ImageFolder(write_tree(tmp_path, {name: picture(30, 20, "PNG", mode) for name in names})).info
    assert (info.shape, info.channels) == ((20, 30, channels), channels)
    assert len(info.mean) == len(info.std) == channels
    assert channels == 3 or (info.mean, info.std) == (GREY_MEAN, GREY_STD)


def test_one_picture_in_colour_makes_three_channels(tmp_path: Path, picture: Picture, write_tree: Write) -> None:
    """Grey pictures among coloured ones do not make the data set grey."""
    names = {"train/a/1.png": "L", "train/b/1.png": "L", "val/a/1.png": "RGB"}
    info = ImageFolder(write_tree(tmp_path, {name: picture(30, 20, "PNG", mode) for name, mode in names.items()})).info
    assert info.shape == (20, 30, 3)


def test_size_is_that_of_the_stored_picture(tmp_path: Path) -> None:
    """An orientation in the EXIF data does not turn the size round."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "turned.jpg", exif=exif)
    assert header_at(tmp_path / "turned.jpg")[:2] == (30, 40)
    assert header_of((tmp_path / "turned.jpg").read_bytes())[:2] == (30, 40)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_grey_modes_are_grey(tmp_path: Path, mode: str) -> None:
    """Pictures of one bit, eight and sixteen bits, with or without alpha, are grey."""
    values = np.arange(48, dtype=np.uint16).reshape(6, 8)
    image = Image.fromarray(values) if mode == "I;16" else Image.fromarray(values.astype(np.uint8)).convert(mode)
    image.save(tmp_path / "grey.png")
    assert header_at(tmp_path / "grey.png") == (6, 8, True)


@pytest.mark.parametrize("choice", ["valid", "validation", "test"])
def test_other_names_of_the_validation_folder(folder: Path, files: dict[str, bytes], choice: str) -> None:
    """Where there is no val/, the first of valid/, validation/ and test/ is taken."""
    (folder / "val").rename(folder / choice)
    assert [label for _, label in ImageFolder(folder).examples("val")] == [0, 1]


@pytest.mark.parametrize(("gone", "what"), [("", "give a folder"), ("train", "the train split"), ("val", "the val split")])
def test_missing_folders_are_named(folder: Path, gone: str, what: str) -> None:
    """Without the tree, or one of its splits, the message says what to make."""
    shutil.rmtree(folder / gone)
    with pytest.raises(DatasetMissing, match=what):
        ImageFolder(folder)


@pytest.mark.parametrize(
    ("made", "what"),
    [
        ("train/empty", "train/empty: holds no JPEG, PNG, WebP or BMP picture"),
        ("train/empty/nested", "train/empty: holds no JPEG"),
        ("val/cat b", "val/cat b: holds no JPEG"),
        ("val/wolf", "val/wolf: is a class that train does not have"),
    ],
)
def test_class_folders_that_do_not_fit_are_corrupt(folder: Path, made: str, what: str) -> None:
    """A class without pictures, or one that only val has, is refused by name."""
    (folder / made).mkdir(parents=True)
    with pytest.raises(DatasetCorrupt, match=what):
        ImageFolder(folder)


def test_a_split_without_class_folders_is_corrupt(tmp_path: Path, picture: Picture, write_tree: Write) -> None:
    """Pictures that lie in no class folder have no label."""
    with pytest.raises(DatasetCorrupt, match="train: holds no class folders"):
        ImageFolder(write_tree(tmp_path, {"train/1.jpg": picture(), "val/a/1.jpg": picture()}))


def _png_of(width: int, height: int) -> bytes:
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"")]
    framed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is empty|is no JPEG"),
        (b"GIF89a no picture", "is no JPEG, PNG, WebP or BMP picture"),
        (_png_of(100_000, 100_000), "is of an absurd size"),
        (_png_of(0, 10), "is of an absurd size|is no JPEG"),
    ],
)
@pytest.mark.parametrize("place", ["train/Dog/0.png", "val/cat/z.png"])
def test_a_file_that_is_no_picture_is_named(folder: Path, place: str, data: bytes, what: str) -> None:
    """Found at opening or when its turn comes: no picture, no size, or an absurd one is refused with its path."""
    (folder / place).write_bytes(data)
    with pytest.raises(DatasetCorrupt, match=f"{place}: ({what})"):
        list(ImageFolder(folder).examples(place.partition("/")[0]))


def test_a_link_to_nothing_is_named(folder: Path) -> None:
    """A picture that is a dangling link is not left out in silence."""
    (folder / "train/cat/gone.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(DatasetCorrupt, match=r"gone\.jpg: is a link to nothing"):
        ImageFolder(folder)


def test_links_are_followed_but_not_round_in_circles(folder: Path, tmp_path: Path) -> None:
    """A class folder may be a link; one that leads back up is left out."""
    (folder / "train/cat").rename(tmp_path / "elsewhere")
    (folder / "train/cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "elsewhere")
    assert ImageFolder(folder).info.counts["train"] == 5


def test_fingerprint_follows_the_files(folder: Path) -> None:
    """A touched picture changes the fingerprint; reading again, or another file's change, does not."""
    before = ImageFolder(folder).info.fingerprint
    (folder / "train/notes.md").parent.joinpath(".hidden").write_bytes(b"")
    assert ImageFolder(folder).info.fingerprint == before
    os.utime(folder / "val/cat/v.png", ns=(0, 1))
    assert ImageFolder(folder).info.fingerprint != before


@pytest.fixture
def imagenette(tmp_path: Path, files: dict[str, bytes], write_tree: Write) -> Path:
    """A data folder with a small tree in Imagenette's place."""
    write_tree(tmp_path / "imagenette2", {**files, "noisy_imagenette.csv": b"path\n"})
    return tmp_path


def test_imagenette_of_unknown_origin_is_refused(imagenette: Path) -> None:
    """Imagenette's tree has no published checksums: it is a part, or unverified, and only when allowed."""
    with pytest.raises(DatasetUnverified, match="was not unpacked by Loadstone"):
        Imagenette(imagenette)
    info = Imagenette(imagenette, allow_unverified=True).info
    assert (info.name, info.verification) == ("imagenette (part)", "part")


def test_imagenette_is_unpacked_and_proved(monkeypatch: pytest.MonkeyPatch, imagenette: Path, tar_gz: Write) -> None:
    """Where only the archive is there, it is checked and unpacked; the tree is then known to be the publisher's."""
    path = tar_gz(imagenette / "imagenette2", imagenette / "imagenette2.tgz")
    shutil.rmtree(imagenette / "imagenette2")
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(Imagenette, "archive", replace(Imagenette.archive, md5=md5))
    info = Imagenette(imagenette).info
    assert (info.name, info.verification, info.counts) == ("imagenette", "checksum", {"train": 5, "val": 2})


def test_imagenettes_archive_is_torchvisions() -> None:
    """Address and checksum are those of torchvision's full-size Imagenette."""
    torchvision = pytest.importorskip("torchvision")
    assert (Imagenette.archive.url, Imagenette.archive.md5) == torchvision.datasets.Imagenette._ARCHIVES["full"]
