"""Pictures made by Loadstone: seeded, of any size and count, in classes that a network really learns.

A class is a sum of a few slow waves, each in its own direction and colour. An example is that pattern moved by up to a twelfth
of the picture, somewhat brighter or darker, under noise.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasets.errors import UnknownName, UsageError
from datasets.source import SPLITS, Example, Source, SourceInfo, check_split

WAVES = 4
CONTRAST = 34.0  # levels; the standard deviation of a class's pattern, summed over its waves
COLOUR = 16.0  # levels; the standard deviation of a class's mean colour
SHIFT = 1 / 12
BRIGHTNESS = 16
NOISE = 40  # levels, uniform to either side

# Measured over 6,000 pictures of the default kind; docs/datasets.md shows how to recompute.
MEAN, STD = 0.5, 0.18


@dataclass(frozen=True)
class Recipe:
    """What to make.

    Attributes:
        train, val: examples in each split.
        height, width: in pixels; where sizes differ, about the mean.
        channels: 3 or 1.
        classes: how many.
        seed: 0 to 2**64 - 1.
        codec: ``raw`` gives pixels, ``jpeg`` gives JPEG files.
        differing: 1 for pictures of differing sizes, 3/4 to 5/4 of height and width; else 0.
    """

    train: int = 2000
    val: int = 500
    height: int = 32
    width: int = 32
    channels: int = 3
    classes: int = 10
    seed: int = 0
    codec: Literal["raw", "jpeg"] = "raw"
    differing: int = 0

    def __post_init__(self) -> None:
        bounds = {
            "train": (1, 1 << 40),
            "val": (1, 1 << 40),
            "height": (4, 8192),
            "width": (4, 8192),
            "classes": (2, 1 << 20),
            "seed": (0, (1 << 64) - 1),
            "differing": (0, 1),
        }
        for option, (low, high) in bounds.items():
            if not low <= getattr(self, option) <= high:
                raise UsageError(f"synthetic: {option}={getattr(self, option)} is not within {low} to {high}")
        if self.channels not in (1, 3):
            raise UsageError(f"synthetic: channels={self.channels} is neither 1 nor 3")
        if self.codec not in ("raw", "jpeg"):
            raise UnknownName("codec of synthetic", self.codec, ("raw", "jpeg"))

    @classmethod
    def parse(cls, argument: str) -> Self:
        """The recipe in words like ``train=2000,val=500,size=32,codec=jpeg``; ``size`` is height and width.

        Raises:
            UnknownName: no such option.
            UsageError: a value is no whole number, or out of bounds.
        """
        values: dict[str, int | str] = {}
        known = [field.name for field in fields(cls)]
        for word in filter(None, argument.split(",")):
            option, _, text = (part.strip() for part in word.partition("="))
            if option not in [*known, "size"]:
                raise UnknownName("option of synthetic", option, [*known, "size"])
            value = text if option == "codec" else _whole_number(option, text)
            values.update({"height": value, "width": value} if option == "size" else {option: value})
        return cls(**values)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """The words that ``parse`` reads, as far as they differ from the defaults."""
        return ",".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self) if _differs(self, field.name))


def _differs(recipe: Recipe, option: str) -> bool:
    return bool(getattr(recipe, option) != getattr(Recipe, option))


def _whole_number(option: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"synthetic: {option}={text!r} is no whole number; write for example {option}=32")
    return int(text)


class Synthetic(Source):
    """The pictures of a recipe. Example ``i`` is a pure function of seed, split and ``i`` (and of sizes, classes and codec).

    Labels are balanced: every ``classes`` examples in a row have each label once, in an order drawn anew.

    Args:
        recipe: what to make.
        name: for tables; ``synthetic`` and what differs from the defaults, if empty.
    """

    def __init__(self, recipe: Recipe, name: str = "") -> None:
        self._recipe = recipe
        self._classes = _Classes(recipe)
        self.info = SourceInfo(
            name=name or "synthetic" + (f":{recipe}" if str(recipe) else ""),
            classes=tuple(f"class{label:03d}" for label in range(recipe.classes)),
            counts={"train": recipe.train, "val": recipe.val},
            shape=None if recipe.differing else (recipe.height, recipe.width, recipe.channels),
            channels=recipe.channels,
            codec=recipe.codec,
            verification="synthetic",
            fingerprint=hashlib.sha256(repr(sorted(asdict(recipe).items())).encode()).hexdigest(),
            mean=(MEAN,) * recipe.channels,
            std=(STD,) * recipe.channels,
            licence="free of rights",
        )

    @classmethod
    def from_argument(cls, argument: str, _data_dir: Path, /, name: str = "") -> Self:
        """The pictures of ``Recipe.parse(argument)``.

        Raises:
            UsageError: as there.
        """
        return cls(Recipe.parse(argument), name)

    @staticmethod
    def check_argument(argument: str) -> None:
        """Refuse what ``from_argument`` would.

        Raises:
            UsageError: as ``Recipe.parse``.
        """
        Recipe.parse(argument)

    def examples(self, split: str) -> Iterator[Example]:
        check_split(split)
        labels: list[int] = []
        for index in range(self.info.counts[split]):
            place = index % self._recipe.classes
            if place == 0:
                labels = self._draws(split, index, 1).permutation(self._recipe.classes).tolist()
            pixels = self._classes.picture(labels[place], self._draws(split, index, 0))
            yield Example(_as_jpeg(pixels) if self._recipe.codec == "jpeg" else pixels, labels[place])

    def _draws(self, split: str, index: int, purpose: int) -> np.random.Generator:
        """The random numbers of one example: a stream of its own, so that no other example moves them."""
        key = np.array([self._recipe.seed, 1 + SPLITS.index(split)], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, purpose, index], np.uint64)))


class _Classes:
    """The patterns of all classes, which depend on the seed alone."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        draws = np.random.Generator(np.random.Philox(key=np.array([recipe.seed, 0], np.uint64)))
        of_all = (recipe.classes, WAVES)
        self._cycles = draws.integers(-2, 3, (2, *of_all))  # waves over the picture's height and width
        self._phase = draws.uniform(0, 2 * np.pi, of_all)
        colours = draws.standard_normal((*of_all, recipe.channels))
        self._colour = colours * CONTRAST * np.sqrt(2 / WAVES)
        self._mean = 127.5 + COLOUR * draws.standard_normal((recipe.classes, 1, recipe.channels))

    def picture(self, label: int, draws: np.random.Generator) -> npt.NDArray[np.uint8]:
        """One picture of a class: uint8 (height, width, channels)."""
        recipe, channels = self._recipe, self._recipe.channels
        height, width = recipe.height, recipe.width
        if recipe.differing:
            height, width = (int(side * draws.uniform(0.75, 1.25) + 0.5) for side in (height, width))
        shift = draws.uniform(-SHIFT, SHIFT, (2, 1))
        light = int(draws.integers(-BRIGHTNESS, BRIGHTNESS + 1))
        # cos(a + b) = cos a cos b - sin a sin b, so the sum of waves is one small matrix product, for any size. In double
        # precision, so that a library's order of adding does not show in the rounded pixels.
        down = 2 * np.pi * self._cycles[0, label] * (np.arange(height)[:, None] / height + shift[0]) + self._phase[label]
        across = 2 * np.pi * self._cycles[1, label] * (np.arange(width)[:, None] / width + shift[1])
        left = np.concatenate([np.cos(down), -np.sin(down), np.ones((height, 1))], axis=1)
        right = np.concatenate([np.cos(across), np.sin(across), np.ones((width, 1))], axis=1).T
        factors = np.concatenate([self._colour[label], self._colour[label], self._mean[label] + (light + 0.5)])
        # By einsum, not by BLAS: its threads, woken for every picture, took 20 ms where einsum takes 2 on two busy cores.
        coloured = (right[:, :, None] * factors[:, None, :]).reshape(-1, width * channels)
        levels: npt.NDArray[np.float64] = np.einsum("hk,kw->hw", left, coloured)
        levels += draws.integers(-NOISE, NOISE + 1, levels.shape, np.int16)
        np.clip(levels, 0, 255, out=levels)
        return levels.astype(np.uint8).reshape(height, width, channels)


def _as_jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(file, "JPEG")
    return file.getvalue()
