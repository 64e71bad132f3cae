"""Made pictures: the same every time, balanced, and learnable."""

from __future__ import annotations

import io
from itertools import islice

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from datasets.errors import UnknownName, UsageError
from datasets.source import Example
from datasets.synthetic import Recipe, Synthetic


def _source(words: str = "") -> Synthetic:
    return Synthetic(Recipe.parse(words))


def _pixels(example: Example) -> npt.NDArray[np.uint8]:
    if isinstance(example.picture, bytes):
        return np.asarray(Image.open(io.BytesIO(example.picture)))
    return example.picture


def _arrays(source: Synthetic, split: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    examples = list(source.examples(split))
    pixels = np.stack([_pixels(example) for example in examples]).reshape(len(examples), -1)
    return pixels.astype(np.float32), np.array([example.label for example in examples])


def test_the_same_recipe_gives_the_same_pictures() -> None:
    """Two sources of one recipe agree in every byte, and so does one source read twice."""
    first, second = _source("train=30,seed=7"), _source("train=30,seed=7")
    for one, other, again in zip(first.examples("train"), second.examples("train"), first.examples("train"), strict=True):
        assert np.array_equal(one.picture, other.picture)
        assert np.array_equal(one.picture, again.picture)
        assert one.label == other.label == again.label


@pytest.mark.parametrize("words", ["", "codec=jpeg", "differing=1", "classes=7,channels=1"])
def test_an_example_does_not_depend_on_the_count(words: str) -> None:
    """Example i is the same in a short data set and in a long one."""
    short, long = _source(f"train=15,{words}"), _source(f"train=40,{words}")
    for one, other in zip(short.examples("train"), islice(long.examples("train"), 15), strict=True):
        assert np.array_equal(one.picture, other.picture)
        assert one.label == other.label


def test_seed_and_split_and_place_make_a_difference() -> None:
    """No two examples are alike, within a split, across splits, or across seeds."""
    pictures = [
        _pixels(example).tobytes()
        for seed in (0, 1)
        for split in ("train", "val")
        for example in _source(f"train=20,val=20,seed={seed}").examples(split)
    ]
    assert len(set(pictures)) == 80


def test_labels_are_balanced_and_shuffled() -> None:
    """Each class comes once in every ten examples, in an order that changes."""
    labels = np.array([label for _, label in _source("train=200").examples("train")]).reshape(20, 10)
    assert (np.sort(labels, axis=1) == np.arange(10)).all()
    assert len({tuple(row) for row in labels}) > 15


@pytest.mark.parametrize(
    ("words", "atleast"),
    [("", 0.7), ("train=1000,val=300,size=64,classes=50,codec=jpeg", 0.5), ("size=28,channels=1", 0.6)],
)
def test_the_nearest_centroid_recognises_the_classes(words: str, atleast: float) -> None:
    """The simplest classifier there is does far better than chance on pictures that it has not seen."""
    source = _source(words)
    (train, labels), (val, truth) = _arrays(source, "train"), _arrays(source, "val")
    centroids = np.stack([train[labels == label].mean(0) for label in range(len(source.info.classes))])
    found = (-2 * val @ centroids.T + (centroids**2).sum(1)).argmin(1)
    assert (found == truth).mean() > atleast


def test_pixels_are_noisy_and_not_flat() -> None:
    """Pictures use the range of values, without being black or white all over, and mean and std are near the ones stated."""
    source = _source("train=300")
    pixels = _arrays(source, "train")[0] / 255
    assert abs(pixels.mean() - source.info.mean[0]) < 0.05
    assert abs(pixels.std() - source.info.std[0]) < 0.04
    assert ((pixels == 0) | (pixels == 1)).mean() < 0.05


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_shape_and_codec_are_as_asked(codec: str, channels: int) -> None:
    """Height, width and channels are those of the recipe, as pixels or as JPEG files."""
    source = _source(f"train=3,height=24,width=40,codec={codec},channels={channels}")
    assert source.info.shape == (24, 40, channels)
    for example in source.examples("train"):
        assert isinstance(example.picture, bytes) == (codec == "jpeg")
        assert _pixels(example).reshape(24, 40, channels).dtype == np.uint8
    assert len(source.info.mean) == len(source.info.std) == channels


def test_differing_sizes_differ_within_bounds() -> None:
    """Sizes are spread over 3/4 to 5/4 of those asked for, and no shape is claimed."""
    source = _source("train=50,size=40,differing=1")
    shapes = {_pixels(example).shape for example in source.examples("train")}
    assert source.info.shape is None
    assert len(shapes) > 30
    assert all(30 <= height <= 50 and 30 <= width <= 50 for height, width, _ in shapes)


def test_the_name_says_what_differs_from_the_defaults() -> None:
    """Two recipes never share a name or a fingerprint, and the words of a name make the same recipe."""
    plain, other = _source().info, _source("seed=3,size=48").info
    assert (plain.name, other.name) == ("synthetic", "synthetic:height=48,width=48,seed=3")
    assert plain.fingerprint != other.fingerprint
    assert _source(other.name.partition(":")[2]).info == other
    assert plain.verification == "synthetic"


@pytest.mark.parametrize(
    "words",
    [
        "train=0",
        "val=-1",
        "size=3",
        "size=1e3",
        "classes=1",
        "channels=2",
        "differing=2",
        "seed=18446744073709551616",
        "train",
        "val=",
    ],
)
def test_values_out_of_bounds_are_wrong_calls(words: str) -> None:
    """Zero, negative, absurd and unreadable values are refused by the option's name."""
    option = words.partition("=")[0].replace("size", "(size|height)")
    with pytest.raises(UsageError, match=option):
        _source(words)


@pytest.mark.parametrize(("words", "nearest"), [("trian=5", "train"), ("codec=jpg", "jpeg")])
def test_unknown_options_get_the_nearest_right_one(words: str, nearest: str) -> None:
    """A misspelt option or codec is answered with the right one."""
    with pytest.raises(UnknownName) as caught:
        _source(words)
    assert caught.value.nearest == nearest
