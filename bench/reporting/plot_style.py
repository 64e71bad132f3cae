"""How every plot looks: a colour, marker and hatch for each backend, the sheet they are drawn on, and its bytes."""

from __future__ import annotations

import io
import math
import textwrap
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, NullFormatter, NullLocator

from bench import numbers
from bench.stats import Interval

# Okabe and Ito, "Color Universal Design" (2008): told apart with every common form of colour blindness.
ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#5F5F5F"


@dataclass(frozen=True)
class Look:
    """A backend's colour in every plot, and the hatch and marker that stand for it in greyscale print."""

    colour: str
    hatch: str
    marker: str | tuple[int, int, int]


LOOKS = {
    "cifar10_torchvision": Look("#FBE7C0", "//..", (3, 1, 0)),
    "dali": Look(PURPLE, "xx", "P"),
    "dali_files": Look("#E8C9DC", "xx..", (6, 1, 0)),
    "dali_gpu": Look("#8F4F75", "xxx", (8, 1, 0)),
    "ffcv": Look(YELLOW, "||", "X"),
    "filesystem": Look(ORANGE, "//", "s"),
    "gpu_mmap": Look(SKY, "++", "^"),
    "hdf5": Look(GREEN, "\\\\", "D"),
    "hdf5_chunked": Look("#5DBF9F", "\\\\..", "d"),
    "hdf5_gzip": Look("#A3DCC9", "\\\\--", (4, 1, 0)),
    "hdf5_gzip64k": Look("#D9F1E9", "\\\\||", (4, 1, 45)),
    "imagefolder": Look("#F3CC7A", "//--", ">"),
    "litdata": Look("#C9C9C9", "||--", "H"),
    "lmdb": Look("#8C6D31", "oo", "v"),
    "memory": Look("#8A8A8A", "", "*"),
    "mmap": Look(BLUE, "", "o"),
    "parquet": Look("#A04000", "OO", "p"),
    "postgres": Look(VERMILION, "...", "h"),
    "webdataset": Look("#B8A9D9", "--", "<"),
    "zarr": Look("#A7D8F2", "**", "8"),
}
_OTHERS = tuple(Look(colour, "**", ">") for colour in (YELLOW, PURPLE, SKY))
RC: dict[Any, Any] = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "errorbar.capsize": 2.5,
    "svg.hashsalt": "loadstone",  # else the same records would give other bytes each time
}
DOTS_PER_INCH = 200
_MARGIN, _TITLE, _FOOTER_LINE, _LEGEND_LINE = 0.08, 0.34, 0.14, 0.2
_LETTERS_PER_INCH = 19
_LEGEND_LETTER, _LEGEND_KEY = 0.06, 0.58


def plain_log(axis: Axis, locator: Locator | None = None, words: Callable[[float], str] = numbers.rate) -> None:
    """A logarithmic axis whose ticks are words, and none between them."""
    axis.set_major_locator(locator or LogLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def look(backend: str) -> Look:
    """The look of a backend, by the registry's key; one that is not listed always gets the same."""
    return LOOKS.get(backend) or _OTHERS[zlib.crc32(backend.encode()) % len(_OTHERS)]


@dataclass(frozen=True)
class Sheet:
    """A figure with a panel a group; legend and footer have strips of their own, so that no data lies under them."""

    figure: Figure
    panels: list[Axes]


def sheet(
    count: int, columns: int, panel: tuple[float, float], title: str, footer: str, legend: Sequence[tuple[Artist, str]] = ()
) -> Sheet:
    """Lay out ``count`` panels of (width, height) inches."""
    rows = math.ceil(count / columns)
    width = max(columns * panel[0], 4.6)
    lines = textwrap.wrap(footer, int(width * _LETTERS_PER_INCH), break_long_words=False, break_on_hyphens=False)
    per_line = _legend_columns(legend, width)
    legend_height = _LEGEND_LINE * math.ceil(len(legend) / per_line)
    below = len(lines) * _FOOTER_LINE + legend_height + 2 * _MARGIN
    height = rows * panel[1] + below + _TITLE
    figure = Figure(figsize=(width, height), layout="constrained")
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(rect=(0, below / height, 1, 1 - (below + _TITLE) / height), hspace=0.06, wspace=0.06)  # type: ignore[call-arg]
    axes = figure.subplots(rows, columns, squeeze=False)
    panels = [axes[place // columns][place % columns] for place in range(rows * columns)]
    for spare in panels[count:]:
        spare.remove()
    left = _MARGIN / width
    figure.text(left, 1 - _MARGIN / height, title, fontsize=10.5, fontweight="bold", va="top")
    figure.text(left, _MARGIN / height, "\n".join(lines), fontsize=7, color=GREY, va="bottom", linespacing=1.25)
    if legend:
        handles, names = zip(*legend, strict=True)
        bottom = (len(lines) * _FOOTER_LINE + _MARGIN) / height
        figure.legend(handles, names, loc="lower center", bbox_to_anchor=(0.5, bottom), ncols=per_line, borderaxespad=0.0)
    return Sheet(figure, panels[:count])


def _legend_columns(legend: Sequence[tuple[Artist, str]], width: float) -> int:
    """The most columns that fit; matplotlib fills them downwards."""
    names = [name for _, name in legend]
    for columns in range(len(names), 1, -1):
        height = math.ceil(len(names) / columns)
        longest = [max(map(len, names[start : start + height])) for start in range(0, len(names), height)]
        if sum(longest) * _LEGEND_LETTER + len(longest) * _LEGEND_KEY <= width:
            return len(longest)
    return 1


def images(figure: Figure) -> dict[str, bytes]:
    """The figure's bytes by file suffix; no date and no random name, so that the same figure gives the same bytes."""
    found = {}
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        file = io.BytesIO()
        figure.savefig(file, format=suffix, dpi=DOTS_PER_INCH, metadata=metadata)
        found[suffix] = file.getvalue()
    return found


def arms(found: Interval) -> list[list[float]] | None:
    """An interval as matplotlib draws it: how far its bounds are below and above the mean, which need not be in the middle."""
    if found.low is None or found.high is None:
        return None
    return [[max(0.0, found.mean - found.low)], [max(0.0, found.high - found.mean)]]
