"""Targets: judged by the median, paired by round, and never by what was not measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.experiment import Experiment, dump, parse
from bench.record import Record
from bench.reporting.targets import Finding, findings
from bench.target import Target
from datasets.errors import ExperimentInvalid
from tests.bench.conftest import MakeFolder, MakeRecord, made_up


def load(backend: str, times: list[float], **fields: Any) -> list[Record]:
    """Runs of one cell that loads, a round each; a pass takes these seconds."""
    return [made_up(backend, (2.0, time, time), mode="load", round=number, **fields) for number, time in enumerate(times)]


def judged(records: list[Record], **target: Any) -> Finding:
    cells = tuple(dict.fromkeys(record.cell for record in records))
    experiment = Experiment(name="x", cells=cells, rounds=5, targets=(Target(name="t", **target),))
    return findings(records, experiment)[0]


def test_a_ratio_is_paired_by_round() -> None:
    """Rounds in which the machine was slow for both change nothing."""
    records = load("mmap", [1.0, 2.0, 4.0]) + load("ffcv", [2.0, 4.0, 8.0])
    found = judged(records, of="images_per_second", cell={"backend": "mmap"}, over={"backend": "ffcv"}, at_least=2.0)
    assert found.median == pytest.approx(2.0)
    assert found.interval is not None
    assert found.interval.low == pytest.approx(2.0)
    assert (found.rounds, found.met) == (3, True)


def test_the_median_decides() -> None:
    """One round that went wrong neither saves nor sinks a target."""
    records = load("mmap", [1.0, 1.0, 1.0, 1.0, 9.0]) + load("hdf5", [1.0] * 5)
    assert judged(records, of="images_per_second", cell={"backend": "mmap"}, over={"backend": "hdf5"}, at_least=0.9).met is True
    records = load("mmap", [1.2, 1.2, 1.2, 0.1, 0.1]) + load("hdf5", [1.0] * 5)
    assert (
        judged(records, of="images_per_second", cell={"backend": "mmap"}, over={"backend": "hdf5"}, at_least=0.9).met is False
    )


def test_of_several_cells_the_best_is_taken() -> None:
    """A pattern with a glob stands for the best cell that it fits: the fastest, or the cheapest."""
    records = load("mmap", [1.0, 1.0]) + load("memory", [0.5, 0.5]) + load("postgres", [4.0, 4.0])
    found = judged(records, of="epoch_seconds", cell={"backend": "m*"}, over={"backend": "postgres"}, under=0.2)
    assert found.cell is not None
    assert (found.cell.backend, found.met) == ("memory", True)


def test_speed_per_worker_is_what_scales() -> None:
    """Twice the speed with twice the threads is 1; the same speed with twice the threads is a half."""
    records = load("mmap", [1.0, 1.0], workers=1) + load("mmap", [0.5, 0.5], workers=2)
    target = {"of": "images_per_second_per_worker", "cell": {"workers": 2}, "over": {"workers": 1}, "at_least": 0.7}
    assert judged(records, **target).median == pytest.approx(1.0)
    records = load("mmap", [1.0, 1.0], workers=1) + load("mmap", [1.0, 1.0], workers=2)
    assert judged(records, **target).median == pytest.approx(0.5)


def test_loading_cost_is_what_compute_leaves() -> None:
    """1 - compute / train."""
    records = [made_up("mmap", (2.0, 1.0), round=number) for number in range(3)]
    records += [made_up("memory", (2.0, 0.99), mode="compute", round=number) for number in range(3)]
    target = {"of": "loading_cost", "cell": {"mode": "train"}, "over": {"mode": "compute"}}
    assert judged(records, **target, under=0.02).median == pytest.approx(0.01)
    assert judged(records, **target, under=0.005).met is False


def test_packing_counts_once() -> None:
    """Every run of a store repeats how long packing took: that is one measurement, without an interval."""
    records = load("mmap", [1.0] * 3, pack_seconds=2.0) + load("ffcv", [1.0] * 3, pack_seconds=12.0)
    found = judged(records, of="pack_speed", cell={"backend": "mmap"}, over={"backend": "ffcv"}, at_least=5.0)
    assert found.median == pytest.approx(6.0)
    assert (found.rounds, found.met) == (1, True)
    assert found.interval is not None
    assert found.interval.low is None


def test_accuracy_needs_no_other_cell() -> None:
    """A figure of one cell by itself."""
    records = [made_up("mmap", accuracy=0.9 + number / 100, round=number) for number in range(3)]
    assert judged(records, of="accuracy", cell={"mode": "train"}, at_least=0.9075).median == pytest.approx(0.91)


def test_what_was_not_measured_is_neither_kept_nor_short() -> None:
    """It says why: no such cell, or the error that its runs ended with."""
    records = [*load("mmap", [1.0, 1.0]), made_up("ffcv", mode="load", status="unavailable", error="ffcv is not installed")]
    target = {"of": "images_per_second", "cell": {"backend": "mmap"}, "at_least": 2.0}
    lost = judged(records, **target, over={"backend": "ffcv"})
    assert lost.met is None
    assert "ffcv is not installed" in lost.reason
    absent = judged(records, **target, over={"backend": "dali"})
    assert "no cell has backend dali" in absent.reason
    apart = [*load("mmap", [1.0]), made_up("hdf5", mode="load", round=1)]
    assert "no round" in judged(apart, **target, over={"backend": "hdf5"}).reason


TOML = """
datasets = ["cifar10"]
backends = ["mmap", "hdf5"]
modes = ["load"]
limit = 512

[[targets]]
name = "hdf5 / mmap"
of = "images_per_second"
cell = {backend = "hdf5"}
over = {backend = "mmap", workers = 0}
at_least = 0.9
"""


def test_an_experiment_keeps_its_targets() -> None:
    """As run, it is written with them, and read back the same."""
    found = parse(TOML, "x.toml")
    assert found.targets[0].over == {"backend": "mmap", "workers": 0}
    assert parse(dump(found), "x.toml") == found


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("at_least = 0.9", ""), "at_least"),
        (("at_least = 0.9", "at_least = 0.9\nunder = 1.0"), "at_least"),
        (('"images_per_second"\n', '"accuracy"\n'), "no over"),
        (
            (
                '"images_per_second"\ncell = {backend = "hdf5"}\nover = {backend = "mmap", workers = 0}',
                '"pack_speed"\ncell = {}',
            ),
            "comparison",
        ),
        (('cell = {backend = "hdf5"}', 'cell = {bakend = "hdf5"}'), "backend"),
        (('"images_per_second"', '"speed"'), "images_per_second"),
        (("at_least = 0.9", "at_most = 0.9"), "at_most"),
    ],
)
def test_a_target_that_makes_no_sense_is_refused(change: tuple[str, str], says: str) -> None:
    """The error names what is wrong."""
    with pytest.raises(ExperimentInvalid, match=says):
        parse(TOML.replace(*change), "x.toml")


def test_status_says_how_targets_stand(loadstone: Any, folder_of: MakeFolder, make: MakeRecord, tmp_path: Path) -> None:
    """0 kept, 3 short, 1 not measured, 2 none named; the table names target, bound, figure and cells."""
    records = load("hdf5", [1.0, 1.0]) + load("mmap", [1.0, 1.0])
    kept = loadstone("targets", folder_of(tmp_path / "kept", records, toml=TOML))
    assert kept.status == 0, kept
    assert "hdf5 / mmap" in kept.out
    assert "at least 0.9" in kept.out
    assert "pass" in kept.out
    slow = load("hdf5", [2.0, 2.0]) + load("mmap", [1.0, 1.0])
    assert loadstone("targets", folder_of(tmp_path / "slow", slow, toml=TOML)).status == 3
    assert loadstone("targets", folder_of(tmp_path / "half", load("mmap", [1.0]), toml=TOML)).status == 1
    bare = loadstone("targets", folder_of(tmp_path / "bare", records, toml=TOML[: TOML.index("[[targets]]")]))
    assert (bare.status, "no targets" in bare.err) == (2, True)


def test_a_report_holds_the_targets(loadstone: Any, folder_of: MakeFolder, tmp_path: Path) -> None:
    """``targets.md`` stands beside the tables, where the experiment names targets."""
    folder = folder_of(tmp_path / "run", load("hdf5", [1.0, 1.0]) + load("mmap", [1.0, 1.0]), toml=TOML)
    assert loadstone("report", folder).status == 0
    assert "| hdf5 / mmap | at least 0.9 | 1 |" in (folder / "targets.md").read_text()
