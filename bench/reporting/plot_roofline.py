"""How fast a training each format can feed: training speed against the model's alone, in the manner of a roofline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from bench.reporting import plot_style
from bench.reporting.loading import training_speed
from bench.reporting.plot_layout import Legend, fastest, footer, grid, groups
from bench.reporting.plot_style import look
from bench.reporting.summary import Row
from bench.reporting.wording import Setting

_POINTS = 60  # of a line
_NEAR = 1.3  # trainings whose speeds differ by less are one vertical


@dataclass(frozen=True)
class Published:
    """A training that others have timed: what it reached on one GPU."""

    name: str
    images_per_second: float
    source: str


PUBLISHED = (
    Published(
        "ResNet-50, A100",
        2470,
        "NVIDIA, DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5/README.md, training performance, "
        "DGX A100 (A100 80GB), 1 GPU, mixed precision, container 21.03 (2021); pictures of 224 pixels",
    ),
    Published(
        "airbench94, A100",
        # 48 batches of 1,024 an epoch, 9.9 epochs: 476 steps in 3.83 s.
        476 * 1024 / 3.83,
        "K. Jordan, cifar10-airbench, airbench94.py: 3.83 s on an A100-SXM4-80GB (2024, arXiv:2404.00498); CIFAR-10",
    ),
)


def roofline(rows: Sequence[Row], place: Setting) -> Figure | None:
    """A panel a data set: a line a way of loading, by loading alone; the trainings as measured; and known ones as verticals."""
    trained = {panel[0].dataset: _trained(rows, panel[0].dataset) for panel in groups(rows, "train")}
    loaded: dict[str, list[Row]] = {}
    for panel in map(fastest, groups(rows, "load")):  # of several protocols the one by which most was read
        if panel[0].dataset in trained and len(panel) > len(loaded.get(panel[0].dataset, [])):
            loaded[panel[0].dataset] = panel
    panels = list(loaded.values())
    if not panels:
        return None
    backends = dict.fromkeys(row.cell.backend for panel in panels for row in panel)
    legend: Legend = [(_line([], [], name), f"{name} (RAM)" if name == "memory" else name) for name in backends]
    overlapped = any(row.overlapped for panel in panels for row in panel)
    how = "lines: the slower of model and loading" if overlapped else "lines: the times of model and loading added"
    what = (how, "marks: trainings as measured", "dotted: models alone, here, and published ones (docs/method.md)")
    page = grid(panels, 3.0, "How fast a training each format can feed", footer(panels, place, *what), legend)
    for axes, panel in zip(page.panels, panels, strict=True):
        _draw(axes, panel, trained[panel[0].dataset])
    return page.figure


def _trained(rows: Sequence[Row], dataset: str) -> list[Row]:
    return [row for row in rows if row.dataset == dataset and row.cell.mode == "train" and row.speed and row.speed_alone]


def _line(xs: Sequence[float], ys: Sequence[float], backend: str) -> Line2D:
    """A code path asked for by name is dashed in its format's colour."""
    name, _, path = backend.partition(":")
    return Line2D(xs, ys, color=look(name).colour, linewidth=1.5, linestyle="--" if path else "-", marker=_marker(name, xs))


def _marker(name: str, xs: Sequence[float]) -> Any:
    """In the legend alone."""
    return None if xs else look(name).marker


def _apart(known: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Trainings that are too near each other for two lines have one, with both names."""
    found: list[tuple[str, float]] = []
    for name, speed in sorted(known, key=lambda each: each[1]):
        if found and speed < found[-1][1] * _NEAR:
            found[-1] = (f"{found[-1][0]} / {name}", found[-1][1])
        else:
            found.append((name, speed))
    return found


def _draw(axes: Axes, panel: Sequence[Row], trained: Sequence[Row]) -> None:
    models = {row.cell.model: row.speed_alone or 1.0 for row in trained}
    known = [(str(name), speed) for name, speed in models.items()]
    known += [(each.name, each.images_per_second) for each in PUBLISHED]
    speeds = [speed for _, speed in known]
    low, high = min(speeds) / 2, max(*speeds, *(row.load_images_per_second or 0.0 for row in panel)) * 3
    xs = [low * (high / low) ** (place / (_POINTS - 1)) for place in range(_POINTS)]
    for row in reversed(panel):
        load = row.load_images_per_second or 1.0
        ys = [training_speed(x, load, overlapped=row.overlapped) for x in xs]
        axes.add_line(_line(xs, ys, row.cell.backend))
    for row in trained:
        name = row.cell.backend_name
        spot: Any = {"marker": look(name).marker, "markersize": 5, "markeredgecolor": "black", "markeredgewidth": 0.5}
        axes.plot([row.speed_alone or 1.0], [row.speed or 1.0], color=look(name).colour, linestyle="none", **spot)
    axes.set(xscale="log", yscale="log", xlim=(low, high), xlabel="model alone, images/s", ylabel="training, images/s")
    for name, speed in _apart(known):
        axes.axvline(speed, color=plot_style.GREY, linestyle=":", linewidth=0.9, zorder=0)
        # Where there is room: above the lines at the left, below them at the right.
        at, side = (0.98, "top") if speed < math.sqrt(low * high) / 4 else (0.02, "bottom")
        text = axes.text(speed, at, f"{name} ", ha="right", va=side, transform=axes.get_xaxis_transform())
        text.set(rotation=90, fontsize=6.5, color=plot_style.GREY)
    for axis in (axes.xaxis, axes.yaxis):
        plot_style.plain_log(axis, LogLocator(numticks=max(3, math.ceil(math.log10(high / low)))))
