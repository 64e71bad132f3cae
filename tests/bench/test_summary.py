"""Records to rows: the figures, by hand."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from typing import Any

import pytest

from bench.experiment import Cell, Experiment
from bench.record import Epoch, Record
from bench.reporting.checks import UNEQUAL
from bench.reporting.summary import Row, summary
from bench.reporting.summary_csv import to_csv

MakeRecord = Callable[..., Record]


def row_of(rows: list[Row], backend: str, mode: str = "train") -> Row:
    return next(row for row in rows if row.cell.backend == backend and row.cell.mode == mode)


def rounds(make: MakeRecord, backend: str, means: list[float], **fields: object) -> list[Record]:
    """A record a round, of two measured epochs with that mean."""
    return [make(backend, (9.0, mean - 0.1, mean + 0.1), round=number, **fields) for number, mean in enumerate(means)]


def test_the_first_epoch_is_reported_apart(make: MakeRecord) -> None:
    """A run's figure is the mean of its other epochs, and a row's the mean over runs."""
    row = summary([make(seconds=(5.0, 1.0, 2.0)), make(seconds=(7.0, 2.0, 3.0), round=1)])[0]
    assert row.epoch is not None
    assert row.epoch.mean == pytest.approx(2.0)
    assert row.epoch.low == pytest.approx(math.sqrt(1.5 * 2.5) * math.exp(-12.7062 * math.log(2.5 / 1.5) / 2), rel=1e-4)
    assert row.first_epoch_seconds == pytest.approx(6.0)
    assert row.first_batch_seconds == pytest.approx(0.6)


def test_parts_are_of_one_pass(make: MakeRecord) -> None:
    """Where the images are gone through several times, every figure is divided by the passes."""
    part = Epoch(total=4.0, wait=1.0, copy_=0.4, step=2.6, images=2000, first_batch=0.1, passes=4)
    row = summary([make(mode="load", epochs=(part, part))])[0]
    assert row.epoch is not None
    assert (row.epoch.mean, row.wait_seconds, row.copy_seconds) == pytest.approx((1.0, 0.25, 0.1))
    assert row.step_seconds == pytest.approx(0.65)
    assert row.share(row.wait_seconds) == pytest.approx(0.25)
    assert row.images_per_second == pytest.approx(500)


def test_the_loading_cost_is_the_loading_part_of_an_epoch(make: MakeRecord) -> None:
    """A tenth of a second beside nine tenths of the model alone, whatever its own steps took in these runs."""
    records = rounds(make, "mmap", [1.0, 1.1], wait=0.1) + rounds(make, "memory", [0.9, 0.9], mode="compute")
    held = row_of(summary(records), "mmap").held
    assert held.cost is not None
    assert held.epoch is not None
    assert (held.cost.mean, held.cost.low, held.cost.high) == pytest.approx((0.1, 0.1, 0.1))
    assert (held.epoch.mean, held.epoch.low) == pytest.approx((1.0, 1.0))


def test_compute_of_another_model_or_limit_is_not_the_model_alone(make: MakeRecord) -> None:
    """It is of the same data set, model, protocol and limit, or the rows' own steps stand for it."""
    for other, seconds in (({}, 0.5), ({"model": "resnet20"}, 0.9), ({"limit": 256}, 0.9), ({"dataset": "cifar100"}, 0.9)):
        rows = summary([make("mmap", wait=0.1), make("memory", (0.5, 0.5), mode="compute", **other)])
        alone = row_of(rows, "mmap").held.alone
        assert alone is not None
        assert alone.mean == pytest.approx(seconds / 512)


def test_the_ratio_to_memory_is_of_the_same_way_of_loading(make: MakeRecord) -> None:
    """``memory`` with two workers is the baseline of a row with two workers; without such a row, the fastest is."""
    records = rounds(make, "memory", [1.0, 1.0]) + rounds(make, "memory", [2.0, 2.0], workers=2)
    records += rounds(make, "mmap", [3.0, 3.0], workers=2) + rounds(make, "hdf5", [3.0, 3.0], fetch="item")
    rows = summary(records)
    mmap, hdf5 = row_of(rows, "mmap").memory_ratio, row_of(rows, "hdf5").memory_ratio
    assert mmap is not None
    assert hdf5 is not None
    assert (mmap.mean, hdf5.mean) == pytest.approx((1.5, 3.0))


def test_load_only_speed_is_of_the_same_way_of_loading(make: MakeRecord) -> None:
    """512 images in half a second are 1,024 a second; a cell that loads in another way is not taken for it."""
    records = [make("mmap"), make("mmap", (1.0, 0.5), mode="load"), make("mmap", (1.0, 0.1), mode="load", workers=2)]
    assert row_of(summary(records), "mmap").load_images_per_second == pytest.approx(1024)
    assert row_of(summary([records[0], records[2]]), "mmap").load_images_per_second is None


def test_rows_are_ranked_and_ties_marked(make: MakeRecord) -> None:
    """Fastest first; a tie where the paired interval holds 1; what did not run last."""
    records = rounds(make, "filesystem", [1.5, 1.6, 1.7]) + rounds(make, "mmap", [1.1, 1.12, 1.15])
    records += [*rounds(make, "hdf5", [1.102, 1.119, 1.151]), make("dali", status="unavailable", error="no CUDA device here")]
    rows = summary(records)
    assert [row.cell.backend for row in rows] == ["mmap", "hdf5", "filesystem", "dali"]
    assert [row.tied_above for row in rows] == [None, True, False, None]
    assert [row.tied_best for row in rows] == [None, True, False, None]
    assert (rows[-1].status, rows[-1].reason, rows[-1].epoch) == ("unavailable", "no CUDA device here", None)


def test_ties_are_with_the_fastest_storage_format(make: MakeRecord) -> None:
    """``memory`` is a bound: it may be the fastest, and the others are still compared with the best format."""
    records = (
        rounds(make, "memory", [1.1, 1.12, 1.15])
        + rounds(make, "mmap", [1.5, 1.6, 1.7])
        + rounds(make, "hdf5", [1.501, 1.599, 1.702])
    )
    rows = summary(records)
    assert [(row.cell.backend, row.tied_best) for row in rows] == [("memory", False), ("mmap", None), ("hdf5", True)]


def test_ties_are_corrected_for_all_pairs_of_the_table(make: MakeRecord) -> None:
    """A pair that differs at 3 % by itself does so alone, and not among five rows."""
    pair = rounds(make, "mmap", [1.0, 1.0, 1.0]) + rounds(make, "hdf5", [1.010, 1.007, 1.013])
    assert row_of(summary(pair), "hdf5").tied_best is False
    others = [record for name in ("lmdb", "zarr", "ffcv") for record in rounds(make, name, [1.011, 1.004, 1.019])]
    assert row_of(summary(pair + others), "hdf5").tied_best is True


def test_the_step_is_held_against_the_model_alone(make: MakeRecord) -> None:
    """0.9 s of step in an epoch of 1 s, where the whole epoch of compute takes 0.75 s: a fifth longer in each round."""
    records = rounds(make, "mmap", [1.0, 2.0], wait=0.1, workers=2) + rounds(make, "memory", [0.75, 1.583333], mode="compute")
    held = row_of(summary(records), "mmap").held
    assert held.slowdown is not None
    assert held.slowdown.mean == pytest.approx(1.2)
    assert held.slowed


def test_one_round_ties_nothing(make: MakeRecord) -> None:
    """With one run a row there is no interval and no tie, but None."""
    rows = summary([make("mmap"), make("hdf5", (1.5, 1.2))])
    assert [(row.tied_above, row.epoch.low if row.epoch else 0) for row in rows] == [(None, None), (None, None)]


def test_of_two_runs_in_one_round_the_last_good_one_counts(make: MakeRecord) -> None:
    """A resumed experiment may repeat a round; a failure after a good run takes nothing away."""
    records = [make(seconds=(1.0, 5.0)), make(seconds=(1.0, 2.0)), make(status="failed", error="killed")]
    row = summary(records)[0]
    assert row.epoch is not None
    assert (row.epoch.mean, row.runs, row.status, row.reason) == (2.0, 1, "ok", "")


def test_lost_rounds_are_counted_and_explained(make: MakeRecord) -> None:
    """A row with one failure of three says 2 of 3 and why."""
    row = summary([make(), make(round=1), make(round=2, status="failed", error="server gone")])[0]
    assert (row.runs, row.rounds, row.status, row.reason) == (2, 3, "ok", "server gone")


def test_planned_cells_without_a_record_are_rows(make: MakeRecord) -> None:
    """What an interrupted experiment never reached is said, and the experiment's rounds count."""
    done = make()
    waiting = done.cell.model_copy(update={"backend": "hdf5"})
    rows = summary([done], Experiment(name="quick", cells=(waiting, done.cell), rounds=5))
    assert [(row.cell.backend, row.status, row.runs, row.rounds) for row in rows] == [
        ("mmap", "ok", 1, 5),
        ("hdf5", "not reached", 0, 5),
    ]


def test_a_record_may_name_the_codec_that_the_plan_left_open(make: MakeRecord) -> None:
    """A planned cell of the data set's own codec was reached by a record that says which that is."""
    planned = make().cell
    rows = summary([make(codec="raw")], Experiment(name="quick", cells=(planned,), rounds=1))
    assert [(row.cell.codec, row.status) for row in rows] == [("raw", "ok")]


def test_a_failed_run_gets_the_name_that_good_runs_know(make: MakeRecord) -> None:
    """A run that died before it saw the data stands in the table of the others."""
    good = make("mmap").model_copy(update={"dataset": "cifar10 (part)"})
    rows = summary([good, make("dali", status="failed", error="killed")])
    assert {row.dataset for row in rows} == {"cifar10 (part)"}


def test_a_run_of_one_epoch_has_no_epoch_time(make: MakeRecord) -> None:
    """The first epoch alone measures no steady state; accuracy is still reported."""
    row = summary([make(seconds=(1.0,))])[0]
    assert (row.epoch, row.first_epoch_seconds) == (None, 1.0)
    assert row.accuracy is not None


def test_accuracy_has_an_interval_from_two_runs_on(make: MakeRecord) -> None:
    """0.38 and 0.39: the mean is 0.385, half the width 12.7 x 0.005."""
    row = summary([make(), make(round=1)])[0]
    assert row.accuracy is not None
    assert row.accuracy.mean == pytest.approx(0.385)
    assert row.accuracy.half_width == pytest.approx(12.7062 * 0.005, rel=1e-4)
    assert row.macro_f1 == pytest.approx(0.37)


def test_wide_and_short_timings_are_doubted(make: MakeRecord) -> None:
    """Runs of 1 and 2 s spread by 47 %; an epoch of 50 ms is short, whatever the passes."""
    wide = summary([make(seconds=(1.0, 1.0)), make(seconds=(1.0, 2.0), round=1)])[0]
    assert [doubt.kind for doubt in wide.doubts] == ["spread"]
    assert wide.doubts[0].value == pytest.approx(math.sqrt(0.5) / 1.5)
    short = summary([make(seconds=(0.5, 0.05), wait=0.01)])[0]
    assert [(doubt.kind, doubt.value) for doubt in short.doubts] == [("short", 0.05)]
    assert summary([make(seconds=(0.05, 1.0), wait=0.01)])[0].doubts == ()


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("order", "order_sha256", "shuffled otherwise"),
        ("pixels", "pixel_sha256", "channels swapped"),
        ("losses", "losses", (9.0, 9.0)),
        ("content", "content_sha256", "other pictures"),
    ],
)
def test_unequal_work_is_named(make: MakeRecord, kind: str, field: str, value: object) -> None:
    """The row that differs from most is doubted, with the rows it differs from; it is no candidate for the best."""
    rows = summary([make("mmap"), make("hdf5"), make("lmdb", (1.0, 0.5), **{field: value})])
    odd = row_of(rows, "lmdb")
    assert [doubt.kind for doubt in odd.doubts] == [kind]
    assert [cell.backend for cell in odd.doubts[0].against] == ["hdf5", "mmap"]
    assert not odd.equal_work
    assert row_of(rows, "mmap").doubts == row_of(rows, "hdf5").doubts == ()


def test_other_codecs_and_devices_may_have_other_pixels_and_losses(make: MakeRecord) -> None:
    """JPEG is not raw, and a GPU's sums are not ordered: neither is unequal work."""
    assert row_of(summary([make("mmap"), make("hdf5", codec="jpeg", pixel_sha256="x", losses=(1.0,))]), "hdf5").doubts == ()
    gpu = [make("mmap", device="cuda:0"), make("hdf5", device="cuda:0", losses=(1.0,))]
    assert row_of(summary(gpu), "hdf5").doubts == ()


def test_groups_follow_the_experiment(make: MakeRecord) -> None:
    """Rounds are shuffled; the table is not."""
    records = [make("mmap", model="resnet20"), make("mmap", model="densenet22"), make("mmap", model="resnet8")]
    cells = tuple(record.cell for record in (records[2], records[0], records[1]))
    rows = summary(records, Experiment(name="x", cells=cells, rounds=1))
    assert [row.cell.model for row in rows] == ["resnet8", "resnet20", "densenet22"]
    assert [row.cell.model for row in summary(records)] == ["densenet22", "resnet20", "resnet8"]


def test_the_csv_holds_the_figures_under_names_with_units(make: MakeRecord) -> None:
    """One line a cell, read back by the standard library."""
    records = [
        *rounds(make, "mmap", [1.0, 2.0], workers=2, wait=0.1),
        make("dali", status="unavailable", error='no "CUDA", here'),
    ]
    first, second = csv.DictReader(io.StringIO(to_csv(summary(records))))
    assert (first["backend"], first["workers"], first["runs"], first["rounds"]) == ("mmap", "2", "2", "2")
    assert float(first["epoch_seconds_mean"]) == 1.5
    assert float(first["epoch_seconds_low"]) == pytest.approx(math.sqrt(2) * math.exp(-12.7062 * math.log(2) / 2), rel=1e-4)
    assert float(first["wait_share"]) == pytest.approx(0.1 / 1.5)
    assert first["warnings"] == "spread"
    assert (second["status"], second["reason"], second["epoch_seconds_mean"]) == ("unavailable", 'no "CUDA", here', "")


def test_rows_of_unknown_backends_are_rows(make: MakeRecord) -> None:
    """A peer's name, a path asked for by name: a summary needs no registry."""
    row = summary([make("peer:fast")])[0]
    assert row.cell == Cell(dataset="cifar10", backend="peer:fast", model="resnet8", protocol="quick", mode="train", limit=512)


def declaring(make: MakeRecord, *promises: str, complete: bool = True, **fields: Any) -> list[Record]:
    """Three rounds of a feed that declares differences and really has them."""
    quality = {"complete": complete, "distance": 0.4, "tolerance": 0.05, "class_mix": 1.8} if "order" in promises else None
    other = {"order_sha256": "own", "pixel_sha256": "own", "losses": (1.0, 1.0, 1.0)}
    return [
        make(
            "webdataset",
            (1.5, 0.5 + number / 100, 0.5),
            round=number,
            differences=dict.fromkeys(promises, "why"),
            order_quality=quality,
            **(other | fields),
        )
        for number in range(3)
    ]


def test_declared_differences_are_no_doubt_but_no_equal_work(make: MakeRecord) -> None:
    """The row is shown with its shuffle's figures, ranked by its time, and no other row is measured against it."""
    ours = [make("mmap", (1.5, 1.0 + number / 100, 1.0), round=number) for number in range(3)]
    others = [make("hdf5", (1.5, 1.1, 1.1 + number / 100), round=number) for number in range(3)]
    rows = {row.cell.backend: row for row in summary([*ours, *others, *declaring(make, "order", "pixels")])}
    found = rows["webdataset"]
    assert not any(doubt.kind in UNEQUAL for row in rows.values() for doubt in row.doubts)
    assert not found.equal_work
    assert (found.order_distance, found.order_tolerance, found.class_mix) == pytest.approx((0.4, 0.05, 1.8))
    assert found.differences == (("order", "why"), ("pixels", "why"))
    assert rows["mmap"].equal_work
    assert rows["mmap"].tied_best is None
    assert rows["hdf5"].order_distance is None


@pytest.mark.parametrize(("promises", "complete"), [((), True), (("held",), True), (("pixels",), True), (("order",), False)])
def test_what_is_not_declared_is_held_against_a_feed(make: MakeRecord, promises: tuple[str, ...], complete: bool) -> None:
    """Another order without a word is unequal work; and so is a declared one in which a picture is missing."""
    ours = [make(name, round=number) for name in ("mmap", "hdf5") for number in range(3)]
    rows = {row.cell.backend: row for row in summary([*ours, *declaring(make, *promises, complete=complete)])}
    assert "order" in {doubt.kind for doubt in rows["webdataset"].doubts}


def test_a_feed_that_only_overwrites_batches_did_equal_work(make: MakeRecord) -> None:
    """``held`` changes nothing that is trained on."""
    ours = [make("mmap", round=number) for number in range(3)]
    theirs = [make("ffcv", round=number, differences={"held": "why"}) for number in range(3)]
    assert all(row.equal_work for row in summary([*ours, *theirs]))
