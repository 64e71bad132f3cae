"""How near each format comes to what the machine can do: the plot of loading speed against the limits of the same run."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench import numbers
from bench.reporting import plot_style, wording
from bench.reporting.plot_layout import FASTEST, Legend, fastest, footer, grid, groups
from bench.reporting.plot_style import look
from bench.reporting.summary import Row
from bench.reporting.wording import Setting

_LETTER = 0.064  # inches, of a label
_ROOM = 4.0  # beyond the fastest, on a logarithmic axis: a column for figures
_LINES: tuple[tuple[float, Sequence[float]], ...] = (
    *((0, (100, 0)), (0, (6, 2)), (0, (3, 2)), (0, (1, 1.2))),
    *((0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1))),
)


def load_limits(rows: Sequence[Row], place: Setting) -> Figure | None:
    """Images a second of each format's fastest way of loading, and the limits of the machine, measured beside it."""
    limits = {panel[0].group[:4]: [row for row in panel if row.images_per_second] for panel in groups(rows, "limit")}
    panels = [fastest(panel) for panel in groups(rows, "load") if limits.get(panel[0].group[:4])]
    if not panels:
        return None
    names = list(dict.fromkeys(_name(row) for panel in panels for row in limits[panel[0].group[:4]]))
    styles = dict(zip(names, _LINES * (1 + len(names) // len(_LINES)), strict=False))
    legend: Legend = [(Line2D([], [], color="black", linestyle=style, linewidth=1.2), name) for name, style in styles.items()]
    labels = [wording.labels(row.cell for row in panel) for panel in panels]
    longest = max(len(name) for each in labels for name in each.values())
    foot = footer(panels, place, f"{FASTEST}; logarithmic")
    height = 0.75 + 0.25 * max(map(len, panels))
    page = grid(panels, height, "Loading only, against the limits of the machine", foot, legend, least=longest * _LETTER + 1.9)
    for axes, panel, named in zip(page.panels, panels, labels, strict=True):
        _bars(axes, panel, [named[row.cell] for row in panel])
        for row in limits[panel[0].group[:4]]:
            axes.axvline(row.images_per_second or 0.0, color="black", linestyle=styles[_name(row)], linewidth=1.2)
        _scale(axes, [row.images_per_second or 1.0 for row in (*panel, *limits[panel[0].group[:4]])])
    return page.figure


def _name(row: Row) -> str:
    threads = max(1, row.cell.workers)
    return f"{row.cell.backend}, {threads} thread{'' if threads == 1 else 's'}"


def _bars(axes: Axes, panel: Sequence[Row], names: Sequence[str]) -> None:
    for spot, row in enumerate(panel):
        style, speed = look(row.cell.backend_name), row.images_per_second or 0.0
        axes.barh(spot, speed, height=0.68, color=style.colour, hatch=style.hatch, edgecolor="black", linewidth=0.6)
        words = numbers.rate(speed)
        axes.text(1, spot, words, transform=axes.get_yaxis_transform(), ha="right", va="center_baseline", fontsize=7.5)
    axes.set_yticks(range(len(panel)), list(names))
    axes.set_ylim(len(panel) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("images/s")


def _scale(axes: Axes, speeds: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(min(speeds) / 2, max(speeds) * _ROOM)
    plot_style.plain_log(axes.xaxis)
