"""Plots of a summary, each only where its data is there. Bars are drawn here, points and curves in ``plot_points``."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench import numbers
from bench.record import Record
from bench.reporting import plot_limits, plot_points, plot_roofline, plot_style, wording
from bench.reporting.plot_layout import Legend, Panels, bound_line, footer, grid, groups, intervals
from bench.reporting.plot_style import Sheet, look
from bench.reporting.summary import Row
from bench.reporting.wording import Setting
from bench.stats import scaled

NAMES = ("roofline", "loading_time", "epoch_time", "accuracy_time", "loss", "size_speed", "load_limits")
GONE = ("epoch_parts",)  # of earlier versions

_LETTER = 0.064  # inches, of a label
_ROOM = 1.3  # of the longest bar, so that figures have a column of their own


def plots(records: Sequence[Record], rows: Sequence[Row], place: Setting) -> dict[str, bytes]:
    """The plots by file name, each as PNG and SVG."""
    drawn: dict[str, Figure | None] = {}
    found: dict[str, bytes] = {}
    with mpl.rc_context(plot_style.RC):
        drawn["roofline"] = plot_roofline.roofline(rows, place)
        drawn["loading_time"] = loading_time(rows, place)
        drawn["epoch_time"] = epoch_time(rows, place)
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
    legend = [(bound_line(), "the model alone: the same steps, batches in place")] if mode == "train" else []
    subject = "Mean epoch time by backend" if mode == "train" else "Mean time of a pass, loading only, by backend"
    page = _bars(panels, subject, footer(panels, place, intervals(panels)), legend)
    for axes, panel in zip(page.panels, panels, strict=True):
        _draw_times(axes, panel)
        alone = next((row.held.alone.mean * (row.train_images or 0) for row in panel if row.held.alone), None)
        if alone is not None:
            axes.axvline(alone, color="black", linestyle=(0, (4, 2)), linewidth=1)
            axes.set_xlim(0, max(axes.get_xlim()[1], alone * _ROOM))
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


def loading_time(rows: Sequence[Row], place: Setting) -> Figure | None:
    """How long training waits for an image, by backend: a panel a data set and model."""
    panels = [[row for row in panel if row.held.time] for panel in groups(rows, "train")]
    panels = [panel for panel in panels if panel]
    if not panels:
        return None
    page = _bars(panels, "Loading time in training, by backend", footer(panels, place, intervals(panels)), ())
    for axes, panel in zip(page.panels, panels, strict=True):
        times = [row.held.time for row in panel if row.held.time]
        for spot, (row, time) in enumerate(zip(panel, times, strict=True)):
            style, microseconds = look(row.cell.backend_name), 1e6 * time.mean
            axes.barh(spot, microseconds, height=0.68, color=style.colour, hatch=style.hatch, edgecolor="black", linewidth=0.6)
            axes.errorbar(microseconds, spot, xerr=plot_style.arms(scaled(time, 1e6)), color="black", linewidth=1.1)
            _beside(axes, spot, numbers.plus_minus(scaled(time, 1e6)))
        axes.set(xlim=(0, max(1e6 * (time.high or time.mean) for time in times) * _ROOM * 1.35), xlabel="µs an image")
    return page.figure


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
