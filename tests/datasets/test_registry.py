"""Data sets by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from datasets.errors import DataError, DatasetMissing, UnknownName, UsageError
from datasets.registry import SOURCES, is_there, open_source, stand_in
from datasets.source import check_split

PUBLISHED = [name for name, entry in SOURCES.items() if not entry.argument]


def test_names_are_sorted_and_described() -> None:
    """The table is sorted, and every entry has one line about it."""
    assert list(SOURCES) == sorted(SOURCES)
    assert all(entry.what and "\n" not in entry.what for entry in SOURCES.values())


@pytest.mark.parametrize(("name", "nearest"), [("cifar-10", "cifar10"), ("tinyimagenet", "tiny-imagenet"), ("zzz", None)])
def test_unknown_names_get_the_nearest_right_one(tmp_path: Path, name: str, nearest: str | None) -> None:
    """A misspelt data set is answered with the right name, and with all names."""
    for ask in (lambda: open_source(name, tmp_path), lambda: stand_in(name), lambda: is_there(name, tmp_path)):
        with pytest.raises(UnknownName, match="known: cifar10, ") as caught:
            ask()
        assert caught.value.nearest == nearest


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_data_sets_say_how_to_get_them(tmp_path: Path, name: str) -> None:
    """What is not there is missing with the command that fetches it."""
    with pytest.raises(DatasetMissing, match=f"loadstone download {name}"):
        open_source(name, tmp_path)
    assert not is_there(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spec", ["cifar10:train=5", "image_folder", "image_folder:", "synthetic:size=big"])
def test_wrong_arguments_are_wrong_calls(tmp_path: Path, spec: str) -> None:
    """An argument that is missing, unwanted or unreadable is a wrong call, not a broken data set."""
    with pytest.raises(UsageError):
        open_source(spec, tmp_path)


def test_image_folder_takes_relative_and_absolute_folders(
    tmp_path: Path, picture: Callable[..., bytes], write_tree: Callable[..., Path]
) -> None:
    """A folder is looked for in the data folder, unless its path is absolute."""
    write_tree(tmp_path / "my: photos", {"train/a/1.jpg": picture(), "val/a/1.jpg": picture()})
    assert open_source("image_folder:my: photos", tmp_path).info.counts == {"train": 1, "val": 1}
    assert open_source(f"image_folder:{tmp_path}/my: photos", Path("/nowhere")).info.name == "image_folder:my: photos"
    assert is_there("image_folder:my: photos", tmp_path)
    assert not is_there("image_folder:others", tmp_path)


def test_synthetic_takes_options(tmp_path: Path) -> None:
    """The words after the colon make the recipe; without them there are defaults."""
    assert open_source("synthetic:train=12,val=3,size=16", tmp_path).info.shape == (16, 16, 3)
    assert open_source("synthetic", tmp_path).info.name == "synthetic"
    assert is_there("synthetic:train=12", tmp_path)


def test_a_path_too_long_is_one_line(tmp_path: Path) -> None:
    """What the system refuses to look at gives an error of ours."""
    with pytest.raises(DataError) as caught:
        open_source("image_folder:" + "x" * 5000, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape", "codec", "classes"),
    [
        ("cifar10", (32, 32, 3), "raw", 10),
        ("cifar100", (32, 32, 3), "raw", 100),
        ("tiny-imagenet", (64, 64, 3), "jpeg", 200),
        ("imagenette", None, "jpeg", 10),
    ],
)
def test_stand_ins_have_the_shape_of_what_they_stand_for(
    name: str, shape: tuple[int, int, int] | None, codec: str, classes: int
) -> None:
    """A stand-in is like the real one in shape, codec and classes, and never has its name."""
    source = stand_in(name)
    assert source is not None
    info = source.info
    assert (info.name, info.verification) == (f"{name}~synthetic", "synthetic")
    assert (info.shape, info.codec, len(info.classes)) == (shape, codec, classes)
    first = next(source.examples("train")).picture
    assert isinstance(first, bytes) if codec == "jpeg" else isinstance(first, np.ndarray)
    assert len(list(islice(source.examples("val"), 3))) == 3


@pytest.mark.parametrize("spec", ["synthetic", "image_folder:photos"])
def test_nothing_stands_in_for_your_own(spec: str) -> None:
    """The user's own pictures, and made ones, have no stand-in."""
    assert stand_in(spec) is None


def test_a_split_has_one_of_two_names(tmp_path: Path) -> None:
    """Every source refuses a split other than train and val."""
    check_split("val")
    with pytest.raises(UnknownName, match="no split is called 'test'"):
        next(open_source("synthetic", tmp_path).examples("test"))


def test_reading_imports_no_torch() -> None:
    """Neither the table nor any source imports torch: only a download does."""
    modules = ", ".join(sorted({entry.path.partition(":")[0] for entry in SOURCES.values()}))
    code = (
        f"import sys, datasets.registry\nassert 'numpy' not in sys.modules\nimport {modules}\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)
