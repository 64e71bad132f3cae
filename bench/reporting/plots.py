"""Plots of a summary, each only where its data is there. Bars are drawn here, points and curves in ``plot_points``."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from bench import numbers
from bench.record import Record
from bench.reporting import plot_limits, plot_points, plot_style, wording
from bench.reporting.plot_layout import Legend, Panels, bound_line, footer, grid, groups, intervals
from bench.reporting.plot_style import PARTS, Sheet, look
from bench.reporting.summary import Row
from bench.reporting.wording import Setting

NAMES = ("epoch_time", "epoch_parts", "accuracy_time", "loss", "size_speed", "load_limits")

_LETTER = 0.064  # inches, of a label
_ROOM = 1.3  # of the longest bar, so that figures have a column of their own


def plots(records: Sequence[Record], rows: Sequence[Row], place: Setting) -> dict[str, bytes]:
    """The plots by file name, each as PNG and SVG."""
    drawn: dict[str, Figure | None] = {}
    found: dict[str, bytes] = {}
    with mpl.rc_context(plot_style.RC):
        drawn["epoch_time"] = epoch_time(rows, place)
        drawn["epoch_parts"] = epoch_parts(rows, place)
        drawn["accuracy_time"] = plot_points.accuracy_time(rows, place)
        drawn["loss"] = plot_points.loss(records, rows, place)
        drawn["size_speed"] = plot_points.size_speed(rows, place)
        drawn["load_limits"] = plot_limits.load_limits(rows, place)
        for name, figure in drawn.items():
            if figure is not None:
                found |= {f"{name}.{suffix}": content for suffix, content in plot_style.images(figure).items()}
    return found


def epoch_time(rows: Sequence[Row], place: Setting) -> Figure | None:
    """Mean epoch time by backend, a panel a data set and model; where nothing was trained, of loading alone."""
    mode = "train" if groups(rows, "train") else "load"
    panels = groups(rows, mode)
    if not panels:
        return None
    bounds = {row.group[:4]: row.epoch for row in rows if row.cell.mode == "compute" and row.epoch}
    shown = mode == "train" and any(panel[0].group[:4] in bounds for panel in panels)
    legend = [(bound_line(), "compute alone: the same steps, batches in place")] if shown else []
    subject = "Mean epoch time by backend" if mode == "train" else "Mean time of a pass, loading only, by backend"
    page = _bars(panels, subject, footer(panels, place, intervals(panels)), legend)
    for axes, panel in zip(page.panels, panels, strict=True):
        _draw_times(axes, panel)
        bound = bounds.get(panel[0].group[:4]) if mode == "train" else None
        if bound is not None:
            axes.axvline(bound.mean, color="black", linestyle=(0, (4, 2)), linewidth=1)
            axes.set_xlim(0, max(axes.get_xlim()[1], bound.mean * _ROOM))
        axes.set_xlabel("epoch, seconds" if mode == "train" else "pass, seconds")
    return page.figure


def _draw_times(axes: Axes, panel: Sequence[Row]) -> None:
    for spot, row in enumerate(panel):
        if row.epoch is None:
            _absent(axes, spot, row)
            continue
        style = look(row.cell.backend_name)
        axes.barh(spot, row.epoch.mean, height=0.68, color=style.colour, hatch=style.hatch, edgecolor="black", linewidth=0.6)
        axes.errorbar(row.epoch.mean, spot, xerr=plot_style.arms(row.epoch), color="black", linewidth=1.1)
        _beside(axes, spot, numbers.plain(row.epoch.mean, numbers.decimals(row.epoch.mean, row.epoch.half_width)))


def _beside(axes: Axes, spot: int, text: str) -> None:
    """A figure in a column of its own at the right edge, clear of bars and intervals."""
    axes.text(1, spot, text, transform=axes.get_yaxis_transform(), ha="right", va="center_baseline", fontsize=7.5)


def _absent(axes: Axes, spot: int, row: Row) -> None:
    words = f" not run ({row.status})"
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    axes.text(0, spot, words, va="center_baseline", style="italic", color=plot_style.GREY, bbox=ground)


def epoch_parts(rows: Sequence[Row], place: Setting) -> Figure | None:
    """What an epoch is made of: wait, copy and step, stacked."""
    panels = groups(rows, "train") or groups(rows, "load")
    if not panels:
        return None
    legend: list[tuple[Artist, str]] = [
        (Patch(facecolor=colour, hatch=hatch, edgecolor="black", linewidth=0.6), _PART_WORDS[part])
        for part, (colour, hatch) in PARTS.items()
    ]
    subject = f"What {'an epoch' if panels[0][0].cell.mode == 'train' else 'a pass, loading only,'} is made of"
    page = _bars(panels, subject, footer(panels, place, "means over runs, at the right the share spent waiting"), legend)
    for axes, panel in zip(page.panels, panels, strict=True):
        for spot, row in enumerate(panel):
            _draw_parts(axes, spot, row)
        axes.set_xlabel("epoch, seconds" if panel[0].cell.mode == "train" else "pass, seconds")
    return page.figure


_PART_WORDS = {"step": "step (model)", "copy": "copy (to device)", "wait": "wait (for a batch)"}


def _draw_parts(axes: Axes, spot: int, row: Row) -> None:
    if row.epoch is None:
        _absent(axes, spot, row)
        return
    left = 0.0
    for part, seconds in (("step", row.step_seconds), ("copy", row.copy_seconds), ("wait", row.wait_seconds)):
        colour, hatch = PARTS[part]
        axes.barh(spot, seconds or 0.0, left=left, height=0.68, color=colour, hatch=hatch, edgecolor="black", linewidth=0.6)
        left += seconds or 0.0
    _beside(axes, spot, numbers.percent(row.share(row.wait_seconds)))


def _bars(panels: Panels, title: str, foot: str, legend: Legend) -> Sheet:
    """Panels of horizontal bars, one a row, fastest on top; room at the right for a figure beside each bar."""
    tallest = max(len(panel) for panel in panels)
    longest = max(len(name) for panel in panels for name in wording.labels(row.cell for row in panel).values())
    page = grid(panels, 0.75 + 0.25 * tallest, title, foot, legend, least=longest * _LETTER + 1.9)
    for axes, panel in zip(page.panels, panels, strict=True):
        names = wording.labels(row.cell for row in panel)
        axes.set_yticks(range(len(panel)), [names[row.cell] for row in panel])
        axes.set_ylim(len(panel) - 0.4, -0.6)
        axes.set_xlim(0, _reach(panel) * _ROOM)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    return page


def _reach(panel: Sequence[Row]) -> float:
    return max(row.epoch.high or row.epoch.mean for row in panel if row.epoch)
