"""Tiny ImageNet's tree and zip."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.errors import DatasetCorrupt, DatasetMissing, DatasetUnverified
from datasets.tiny_imagenet import TinyImageNet

Write = Callable[..., Path]
FOLDER = "tiny-imagenet-200"


@pytest.fixture
def tiny(tmp_path: Path, tiny_files: dict[str, bytes], write_tree: Write) -> Path:
    """A data folder with Tiny ImageNet's tree."""
    write_tree(tmp_path / FOLDER, tiny_files)
    return tmp_path


def test_train_follows_wnids_then_numbers(tiny: Path, tiny_files: dict[str, bytes]) -> None:
    """Classes come in the order of wnids.txt, pictures by number (2 before 10), as the publisher's own bytes."""
    expected = [
        (tiny_files[f"train/{wnid}/images/{wnid}_{number}.JPEG"], label)
        for label, wnid in enumerate(["n03", "n01", "n02"])
        for number in range(12)
    ]
    assert list(TinyImageNet(tiny, allow_unverified=True).examples("train")) == expected


def test_val_follows_the_annotations(tiny: Path, tiny_files: dict[str, bytes]) -> None:
    """Validation pictures come in the order of val_annotations.txt, with the labels it gives."""
    labels = [1, 2, 0, 0, 1, 2]
    expected = [(tiny_files[f"val/images/val_{number}.JPEG"], labels[number]) for number in reversed(range(6))]
    assert list(TinyImageNet(tiny, allow_unverified=True).examples("val")) == expected


def test_info_says_what_is_there(tiny: Path) -> None:
    """Counts, classes and shape are known at once; where() names the file of an example."""
    source = TinyImageNet(tiny, allow_unverified=True)
    info = source.info
    assert (info.name, info.verification) == ("tiny-imagenet (part)", "part")
    assert (info.classes, info.counts) == (("n03", "n01", "n02"), {"train": 36, "val": 6})
    assert (info.shape, info.channels, info.codec) == ((64, 64, 3), 3, "jpeg")
    assert source.where("train", 14) == str(tiny / FOLDER / "train/n01/images/n01_2.JPEG")


def test_an_unproved_tree_is_refused(tiny: Path) -> None:
    """A tree of unknown origin is read only when that is allowed, and is named for it even when complete."""
    with pytest.raises(DatasetUnverified, match="was not unpacked by Loadstone"):
        TinyImageNet(tiny)


def test_a_complete_tree_of_unknown_origin_is_unverified(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    """As many pictures as published do not prove that they are the same."""
    monkeypatch.setattr(TinyImageNet, "published", {"train": 36, "val": 6})
    info = TinyImageNet(tiny, allow_unverified=True).info
    assert (info.name, info.verification) == ("tiny-imagenet (unverified)", "unverified")


def test_the_official_zip_is_unpacked_and_proved(monkeypatch: pytest.MonkeyPatch, tiny: Path, zipped: Write) -> None:
    """Where only the zip is there, it is checked and unpacked; the tree is then known to be the publisher's."""
    path = zipped(tiny / FOLDER, tiny / f"{FOLDER}.zip")
    expected = list(TinyImageNet(tiny, allow_unverified=True).examples("train"))
    shutil.rmtree(tiny / FOLDER)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(TinyImageNet, "archive", replace(TinyImageNet.archive, md5=md5))
    source = TinyImageNet(tiny)
    assert (source.info.name, source.info.verification) == ("tiny-imagenet", "checksum")
    assert list(source.examples("train")) == expected
    path.unlink()
    assert TinyImageNet(tiny).info == source.info


def test_fingerprint_follows_the_files(tiny: Path) -> None:
    """A touched picture changes the fingerprint; reading again does not."""
    before = TinyImageNet(tiny, allow_unverified=True).info.fingerprint
    assert TinyImageNet(tiny, allow_unverified=True).info.fingerprint == before
    os.utime(tiny / FOLDER / "train/n01/images/n01_0.JPEG", ns=(0, 1))
    assert TinyImageNet(tiny, allow_unverified=True).info.fingerprint != before


@pytest.mark.parametrize("gone", ["wnids.txt", "val/val_annotations.txt"])
def test_a_missing_list_is_named(tiny: Path, gone: str) -> None:
    """Without its lists the tree has no labels; the missing one is named."""
    (tiny / FOLDER / gone).unlink()
    with pytest.raises(DatasetMissing, match=Path(gone).name):
        TinyImageNet(tiny, allow_unverified=True)


def test_a_missing_train_folder_is_named(tiny: Path) -> None:
    """A tree without train/ is not read."""
    shutil.rmtree(tiny / FOLDER / "train")
    with pytest.raises(DatasetMissing, match="train"):
        TinyImageNet(tiny, allow_unverified=True)


@pytest.mark.parametrize(
    ("path", "content", "what"),
    [
        ("val/val_annotations.txt", "val_0.JPEG\tn99\t0\t0\t1\t1\n", "line 1 gives val_0.JPEG the class 'n99'"),
        ("val/val_annotations.txt", "val_0.JPEG\tn01\nval_77.JPEG\tn01\n", "line 2 names val_77.JPEG"),
        ("val/val_annotations.txt", "../../wnids.txt\tn01\n", "line 1 names ../../wnids.txt"),
        ("val/val_annotations.txt", "val_0.JPEG\n", "line 1 gives val_0.JPEG the class ''"),
        ("val/val_annotations.txt", "\n", "names no picture"),
        ("val/val_annotations.txt", "\udcff", "is no UTF-8 text"),
        ("wnids.txt", "", "names no class"),
        ("wnids.txt", "n01\nn02\nn03\nn01\n", "or one twice"),
        ("wnids.txt", "n01\nn02\n", "n03: is not in wnids.txt"),
        ("wnids.txt", "n01\nn02\nn03\nn04\n", "n04/images: holds no JPEG picture"),
    ],
)
def test_lists_that_do_not_fit_are_corrupt(tiny: Path, path: str, content: str, what: str) -> None:
    """A list that names what is not there, or leaves out what is, is refused with the line or the class."""
    (tiny / FOLDER / path).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DatasetCorrupt) as caught:
        TinyImageNet(tiny, allow_unverified=True)
    assert what in str(caught.value)
    assert "loadstone download tiny-imagenet" in str(caught.value)


def test_an_empty_class_folder_is_named(tiny: Path) -> None:
    """A class without pictures is refused by name."""
    for path in (tiny / FOLDER / "train/n02/images").iterdir():
        path.unlink()
    with pytest.raises(DatasetCorrupt, match="n02/images: holds no JPEG picture"):
        TinyImageNet(tiny, allow_unverified=True)


@pytest.mark.parametrize(
    ("data", "what"), [(b"", "is empty"), (b"no picture at all", "is no JPEG"), (b"\xff\xd8\xff", "is no JPEG")]
)
def test_a_file_that_is_no_picture_is_named(tiny: Path, data: bytes, what: str) -> None:
    """What is no picture is refused when its turn comes, with its path."""
    (tiny / FOLDER / "train/n01/images/n01_3.JPEG").write_bytes(data)
    with pytest.raises(DatasetCorrupt, match=rf"n01_3\.JPEG: {what}"):
        list(TinyImageNet(tiny, allow_unverified=True).examples("train"))


def test_a_picture_of_another_size_is_named(tiny: Path, picture: Callable[..., bytes]) -> None:
    """Every picture is of 64 x 64, or is refused."""
    (tiny / FOLDER / "val/images/val_3.JPEG").write_bytes(picture(width=60))
    with pytest.raises(DatasetCorrupt, match=r"val_3\.JPEG: is of 64 x 60 pixels, not 64 x 64"):
        list(TinyImageNet(tiny, allow_unverified=True).examples("val"))


def test_a_picture_that_vanishes_is_named(tiny: Path) -> None:
    """A picture that goes while the data set is read is missed by name."""
    source = TinyImageNet(tiny, allow_unverified=True)
    (tiny / FOLDER / "val/images/val_3.JPEG").unlink()
    with pytest.raises(DatasetMissing, match=r"val_3\.JPEG"):
        list(source.examples("val"))
