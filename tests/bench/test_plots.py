"""Plots: what is drawn, from figures read back out of matplotlib."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from bench.record import Record
from bench.reporting import plot_limits, plot_points, plot_roofline, plot_style, plots
from bench.reporting.summary import summary
from bench.reporting.wording import Setting

MakeRecord = Callable[..., Record]
PLACE = Setting("quick", "AMD EPYC, 2 cores", "2.14.1")


@pytest.fixture(autouse=True)
def _style() -> Iterator[None]:
    with mpl.rc_context(plot_style.RC):
        yield


@pytest.fixture
def records(make: MakeRecord) -> list[Record]:
    return [
        record
        for number in range(2)
        for record in (
            make("mmap", (2.0, 1.0 + number / 100), wait=0.1, round=number),
            make("hdf5", (2.0, 1.5 + number / 100), wait=0.3, round=number),
            make("memory", (2.0, 0.9 + number / 100), mode="compute", round=number),
            make("mmap", (2.0, 0.5), mode="load", round=number),
            make("memory", (2.0, 0.25), mode="load", round=number, store_bytes=None),
            make("dali", status="unavailable", error="no CUDA device here", round=number),
        )
    ]


def drawn(line: Line2D) -> tuple[list[float], list[float]]:
    """The points of a line."""
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def written(figure: Figure) -> list[Text]:
    """The texts that are drawn: matplotlib also holds labels of ticks out of view."""
    axes = [axis for panel in figure.axes for axis in (panel.xaxis, panel.yaxis)]
    every = {tick.label1 for axis in axes for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())}
    seen = {tick.label1 for axis in axes for tick in axis._update_ticks()}  # type: ignore[union-attr]
    return [
        text
        for text in figure.findobj(Text)
        if isinstance(text, Text) and text.get_visible() and (text not in every or text in seen)
    ]


def texts(figure: Figure) -> str:
    """All that is written on a figure."""
    found = [text.get_text() for text in figure.findobj(mpl.text.Text)]
    return "\n".join(found).replace("\N{NO-BREAK SPACE}", " ")


def test_epoch_times_are_bars_fastest_first(records: list[Record]) -> None:
    """Lengths are the means, what did not run is named, the bound is a line, units and conditions are written."""
    figure = plots.epoch_time(summary(records), PLACE)
    assert figure is not None
    axes = figure.axes[0]
    bars = [container for container in axes.containers if isinstance(container, BarContainer)]
    assert [bar.patches[0].get_width() for bar in bars] == pytest.approx([1.005, 1.505])
    assert [to_hex(bar.patches[0].get_facecolor()).upper() for bar in bars] == [
        plot_style.look("mmap").colour.upper(),
        plot_style.look("hdf5").colour.upper(),
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mmap", "hdf5", "dali"]
    assert any(drawn(line)[0] == pytest.approx([0.905, 0.905]) for line in axes.lines)
    for part in (
        "not run (unavailable)",
        "epoch, seconds",
        "cifar10 · resnet8",
        "2 rounds · warm page cache · AMD EPYC",
        "95 %",
    ):
        assert part in texts(figure)


def test_a_bar_s_interval_is_the_table_s(make: MakeRecord) -> None:
    """Its ends are the bounds, which are not as far from the mean on either side."""
    rows = summary([make("mmap", (1.5, seconds, seconds), round=number) for number, seconds in enumerate((1.0, 1.4, 1.1))])
    figure = plots.epoch_time(rows, PLACE)
    found = rows[0].epoch
    assert figure is not None
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.mean > 1.1 * (found.mean - found.low)
    (line,) = [each for each in figure.axes[0].collections if isinstance(each, LineCollection)]
    (ends,) = line.get_segments()
    assert [ends[0][0], ends[1][0]] == pytest.approx([found.low, found.high])


def test_loading_times_are_bars(records: list[Record]) -> None:
    """In microseconds an image, the least first; what did not run has none."""
    figure = plots.loading_time(summary(records), PLACE)
    assert figure is not None
    axes = figure.axes[0]
    bars = [container for container in axes.containers if isinstance(container, BarContainer)]
    assert [bar.patches[0].get_width() for bar in bars] == pytest.approx([0.1e6 / 512, 0.3e6 / 512])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mmap", "hdf5"]
    assert "195.31 ±0.01" in texts(figure)


def test_the_roofline_is_the_model_of_each_way_of_loading(records: list[Record]) -> None:
    """A line adds the times of model and loading; a mark is a training as measured; verticals are known trainings."""
    figure = plot_roofline.roofline(summary(records), PLACE)
    assert figure is not None
    (axes,) = figure.axes
    lines = [drawn(line) for line in axes.lines]
    curves = [(xs, ys) for xs, ys in lines if len(xs) > 2]
    assert len(curves) == 2
    for (xs, ys), load in zip(curves, (512 / 0.5, 512 / 0.25), strict=True):  # mmap lies on memory
        assert ys == pytest.approx([1 / (1 / x + 1 / load) for x in xs])
    alone = 512 / 0.905
    marks = [(xs[0], ys[0]) for xs, ys in lines if len(xs) == 1]
    assert [mark for pair in marks for mark in pair] == pytest.approx([alone, 512 / 1.005, alone, 512 / 1.205])
    verticals = {xs[0] for xs, _ in lines if len(xs) == 2}
    assert sorted(verticals) == pytest.approx([alone, *(each.images_per_second for each in plot_roofline.PUBLISHED)])
    assert "resnet8" in texts(figure)
    assert plot_roofline.roofline(summary([record for record in records if record.cell.mode == "load"]), PLACE) is None


def test_every_published_training_says_where_it_is_from() -> None:
    """A source with a year; a speed of one GPU."""
    assert all(re.search(r"20\d\d", each.source) and 100 < each.images_per_second < 1e6 for each in plot_roofline.PUBLISHED)


def test_accuracy_is_drawn_against_time_with_both_intervals(records: list[Record]) -> None:
    """A point a row, at its means, in per cent."""
    figure = plot_points.accuracy_time(summary(records), PLACE)
    assert figure is not None
    containers = figure.axes[0].containers
    points = [(container[0].get_xdata()[0], container[0].get_ydata()[0]) for container in containers]
    assert points == [pytest.approx((1.005, 38.5)), pytest.approx((1.505, 38.5))]
    assert all(container.has_xerr and container.has_yerr for container in containers)  # type: ignore[attr-defined]


def test_equal_loss_curves_are_said_to_coincide(records: list[Record], make: MakeRecord) -> None:
    """Curves of one round, widest first; bit for bit or how many are distinct."""
    figure = plot_points.loss(records, summary(records), PLACE)
    assert figure is not None
    widths = [line.get_linewidth() for line in figure.axes[0].lines]
    assert widths == sorted(widths, reverse=True)
    assert "2 curves coincide bit for bit" in texts(figure)
    assert "seed 0" in texts(figure)
    records.append(make("lmdb", (1.0, 3.0), losses=(2.3, 2.1, 1.9000001)))
    figure = plot_points.loss(records, summary(records), PLACE)
    assert figure is not None
    assert "3 curves, 2 of them distinct" in texts(figure)


def test_long_loss_curves_are_drawn_as_means(make: MakeRecord) -> None:
    """1,000 steps become means of 3, the last of what is left, and the axis says so."""
    records = [make(losses=tuple(float(step) for step in range(1000)))]
    figure = plot_points.loss(records, summary(records), PLACE)
    assert figure is not None
    steps, means = drawn(figure.axes[0].lines[0])
    assert (len(means), steps[0], means[0], means[-1]) == (334, 2.0, 1.0, 999.0)
    assert "mean of 3 steps" in texts(figure)


def test_size_is_drawn_against_load_speed(records: list[Record]) -> None:
    """147 MiB and 512 images in half a second; ``memory`` is a line at its speed."""
    figure = plot_points.size_speed(summary(records), PLACE)
    assert figure is not None
    axes = figure.axes[0]
    assert len(axes.containers) == 1
    point = axes.containers[0][0]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == pytest.approx((147.0, 1024.0))
    assert any(drawn(line)[1] == pytest.approx([2048.0, 2048.0]) for line in axes.lines)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_too_many_ways_leave_each_format_its_fastest(make: MakeRecord) -> None:
    """Seven ways of loading can't be told apart by how a marker is filled: one point a format and code path then, and said."""
    ways = [("torch", "item", 0), ("torch", "item", 2), ("torch", "batch", 0), ("torch", "batch", 2)]
    ways += [("threads", "batch", threads) for threads in (0, 1, 2)]
    records = [
        make(backend, (1.0, seconds), mode="load", engine=engine, fetch=fetch, workers=workers)
        for backend in ("mmap", "hdf5", "hdf5:h5py")
        for seconds, (engine, fetch, workers) in zip((0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1), ways, strict=True)
    ]
    figure = plot_points.size_speed(summary(records), PLACE)
    assert figure is not None
    points = [container[0].get_ydata()[0] for container in figure.axes[0].containers]
    assert points == pytest.approx([5120.0] * 3)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["hdf5", "mmap", "as it comes", "h5py"]
    assert "fastest" in figure.texts[1].get_text().replace("\N{NO-BREAK SPACE}", " ")


def test_plots_without_data_are_not_made(make: MakeRecord) -> None:
    """A folder of failures has no plot; one of load cells has no accuracy and no loss."""
    failed = [make(status="failed", error="killed")]
    assert plots.plots(failed, summary(failed), PLACE) == {}
    load = [make("mmap", mode="load")]
    assert {name.partition(".")[0] for name in plots.plots(load, summary(load), PLACE)} == {
        "epoch_time",
        "size_speed",
    }


def test_the_same_records_give_the_same_bytes(records: list[Record], make: MakeRecord) -> None:
    """No date, no random name: PNG and SVG of two drawings are equal."""
    rows = summary([*records, make("copy", mode="limit", model=None)])
    first, second = (plots.plots(records, rows, PLACE) for _ in range(2))
    assert set(first) == {f"{name}.{suffix}" for name in plots.NAMES for suffix in ("png", "svg")}
    assert first == second
    assert first["loss.png"].startswith(b"\x89PNG")
    assert b"<svg" in first["loss.svg"]


def test_every_backend_has_a_look_of_its_own() -> None:
    """Colours, markers and hatches differ in pairs, so that print without colour can be read; strangers get one for good."""
    looks = list(plot_style.LOOKS.values())
    assert len({look.colour for look in looks}) == len(looks)
    assert len({look.marker for look in looks}) == len(looks)
    assert plot_style.look("someone's") == plot_style.look("someone's")


def test_settings_of_matplotlib_are_left_alone(records: list[Record]) -> None:
    """Drawing changes nothing for others in the process."""
    with mpl.rc_context({"font.size": 17}):
        plots.plots(records[:2], summary(records[:2]), PLACE)
        assert mpl.rcParams["font.size"] == 17


def test_figures_beside_bars_are_clear_of_them(records: list[Record]) -> None:
    """The longest bar and its interval end before the column of figures begins, in narrow panels too."""
    for model in ("resnet20", "densenet22"):
        records += [
            record.model_copy(update={"cell": record.cell.model_copy(update={"model": model})}) for record in records[:3]
        ]
    for draw in (plots.epoch_time, plots.loading_time):
        figure = draw(summary(records), PLACE)
        assert figure is not None
        figure.draw_without_rendering()
        for axes in figure.axes:
            bars = [patch.get_window_extent().x1 for patch in axes.patches]
            beside = [text.get_window_extent().x0 for text in axes.texts if text.get_horizontalalignment() == "right"]
            assert max(bars) < min(beside)


def test_no_text_lies_on_another(records: list[Record], make: MakeRecord) -> None:
    """Ticks, labels, titles, legend and footer of every figure have room of their own, and none is cut off."""
    for model in ("resnet20", "densenet22"):
        records += [
            make("filesystem", (2.0, 1.4), model=model),
            make("postgres:a very long path", (2.0, 1.3), model=model, workers=2),
        ]
    rows = summary(records)
    of_rows = (plots.epoch_time, plots.loading_time, plot_roofline.roofline, plot_points.accuracy_time, plot_points.size_speed)
    for figure in [*(draw(rows, PLACE) for draw in of_rows), plot_points.loss(records, rows, PLACE)]:
        assert figure is not None
        figure.draw_without_rendering()
        boxes = [(text.get_text(), text.get_window_extent()) for text in written(figure) if text.get_text().strip()]
        width, height = figure.bbox.width, figure.bbox.height
        for place, (words, box) in enumerate(boxes):
            assert box.x0 >= -1, words
            assert box.x1 <= width + 1, words
            assert -1 <= box.y0 <= box.y1 <= height + 1, words
            for other_words, other in boxes[place + 1 :]:
                overlap = (
                    min(box.x1, other.x1) - max(box.x0, other.x0) > 1 and min(box.y1, other.y1) - max(box.y0, other.y0) > 1
                )
                assert not overlap, f"{words!r} lies on {other_words!r}"


def test_loading_is_drawn_against_the_limits_of_its_run(make: MakeRecord) -> None:
    """Each format by its fastest way, fastest on top; a line for each limit, named by its threads."""
    records = [
        record
        for number in range(2)
        for record in (
            make("mmap", (2.0, 0.5), round=number, mode="load"),
            make("mmap", (2.0, 0.25), round=number, workers=2, engine="threads", mode="load"),
            make("hdf5", (2.0, 1.0), round=number, mode="load"),
            make("copy", (2.0, 0.125), round=number, mode="limit", model=None, workers=2),
            make("gather", (2.0, 0.2), round=number, mode="limit", model=None),
        )
    ]
    figure = plot_limits.load_limits(summary(records), PLACE)
    assert figure is not None
    (panel,) = figure.axes
    bars = [bar for container in panel.containers if isinstance(container, BarContainer) for bar in container]
    assert [bar.get_width() for bar in bars] == pytest.approx([512 / 0.25, 512 / 1.0])
    assert sorted(drawn(line)[0][0] for line in panel.lines) == pytest.approx([512 / 0.2, 512 / 0.125])
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"copy, 2 threads", "gather, 1 thread"}
    assert plot_limits.load_limits(summary([one for one in records if one.cell.mode == "load"]), PLACE) is None


def test_panels_of_cold_and_warm_caches_are_told_apart(make: MakeRecord) -> None:
    """Both are of one data set; each panel says which cache it was."""
    records = [make("mmap", (1.0, 1.0), mode="load", cache=cache) for cache in ("cold", "warm")]
    figure = plots.epoch_time(summary(records), PLACE)
    assert figure is not None
    titles = {axes.get_title(loc="left") for axes in figure.axes}
    assert titles == {"cifar10 · guest-cold", "cifar10 · warm"}
