"""A target: a figure of one cell, or of one against another, that an experiment is expected to reach; part of its TOML file."""

from __future__ import annotations

from typing import Literal

import pydantic

from loaders.manifest import Frozen

Figure = Literal["images_per_second", "images_per_second_per_worker", "epoch_seconds", "loading_cost", "pack_speed", "accuracy"]
Pattern = dict[str, str | int]
"""Fields of a cell, such as ``dataset``, ``backend``, ``workers``, and the value or glob that each must have."""

PAIRED: frozenset[Figure] = frozenset(
    {"images_per_second", "images_per_second_per_worker", "epoch_seconds", "loading_cost", "pack_speed"}
)
"""Figures of one cell over another; the rest are of one cell by itself."""


class Target(Frozen):
    """What is measured, of which cell, against which other, and the bound it has to keep.

    Attributes:
        name: as the table of targets shows it.
        of: ``images_per_second``, ``images_per_second_per_worker`` and ``epoch_seconds`` are ratios of ``cell`` to ``over``,
            paired by round; ``images_per_second`` without ``over`` is of ``cell`` alone; ``loading_cost`` is
            1 - ``over`` / ``cell`` in epoch seconds; ``pack_speed`` is the ratio of the images packed a second, once a store;
            ``accuracy`` is of ``cell`` alone.
        cell, over: which cells; where several match, the best of them is taken, and named.
        at_least, under: the bound; exactly one of them.
    """

    name: str
    of: Figure
    cell: Pattern
    over: Pattern = pydantic.Field(default_factory=dict)
    at_least: float | None = None
    under: float | None = None

    @pydantic.model_validator(mode="after")
    def _makes_sense(self) -> Target:
        if (self.at_least is None) == (self.under is None):
            raise ValueError("give one of at_least and under")
        if bool(self.over) != (self.of in PAIRED) and (self.over or self.of != "images_per_second"):
            raise ValueError(f"{self.of} " + ("is a comparison: say over which cell" if self.of in PAIRED else "has no over"))
        return self

    def met(self, value: float) -> bool:
        """Whether ``value`` keeps the bound."""
        return value >= self.at_least if self.at_least is not None else value < (self.under or 0.0)

    @property
    def bound(self) -> str:
        """``at least 2`` or ``under 1.05``."""
        return f"at least {_plain(self.at_least)}" if self.at_least is not None else f"under {_plain(self.under or 0.0)}"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"
