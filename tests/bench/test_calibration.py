"""What a calibration computes of runs whose truth is known; and a small one for real."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.calibrating import by_hand, calibrate, calibration, figures, words
from bench.calibrating.calibrate import FULL, Size
from bench.calibrating.calibration import PLANTED, Calibration, Harness, Measured
from bench.experiment import Cell
from datasets.errors import DataError
from datasets.registry import open_source
from loaders.loading import loader
from loaders.pack import pack

PARTS = (*PLANTED, 0.10)


def run_of(experiment: int, number: int, cell: str, seconds: float, planted: float = 0.0) -> Measured:
    return Measured(
        experiment=experiment,
        round=number,
        position=0,
        cell=cell,
        planted=planted,
        loading=seconds,
        wait_share=0.98,
        timed_seconds=0.25,
        disturbed=False,
    )


def simulated(experiments: int, noise: float, reading: float = 1.0, bias: float = 0.0) -> list[Measured]:
    """Runs of five pairs of equal cells and three slowed ones, in drifting rounds; ``1b``, ``2b`` ... may be slower by bias."""
    draw = random.Random(1)
    runs = []
    for experiment in range(experiments):
        for number in range(5):
            drift = draw.gauss(0, 0.2)
            cells = [(f"{pair}{half}", 0.0, bias * (half == "b")) for pair in range(1, 6) for half in "ab"]
            cells += [(f"planted {part:g}", part, math.log1p(part * reading)) for part in PARTS]
            for name, part, effect in cells:
                runs.append(run_of(experiment, number, name, math.exp(drift + effect + draw.gauss(0, noise)), part))
    return runs


def test_equal_cells_are_called_different_as_often_as_chance_has_it() -> None:
    """Over 200 disjoint pairs the exact interval holds 5 %; of the families the corrected alarms are far fewer."""
    found = figures.alarms(simulated(40, 0.02))
    assert (found.pairs.n, found.families.n, found.corrected.n, found.cells, found.rounds) == (200, 40, 40, 10, 5)
    assert found.pairs.excludes(0.05) is False
    assert found.families.mean > 0.3
    assert found.corrected.mean <= 0.15
    assert found.ratio.excludes(1.0) is False
    assert found.spread == pytest.approx(0.02 * math.sqrt(2), rel=0.1)


def test_a_harness_that_favours_the_first_name_is_seen() -> None:
    """Where every second cell is slower by 5 %, the interval leaves out 5 %, and the calibration falls short."""
    runs = simulated(40, 0.01, bias=0.05)
    assert figures.alarms(runs).pairs.excludes(0.05)
    what = Calibration({}, tuple(runs), ())
    assert figures.short(what)
    assert "Fell short: false alarms" in words.to_markdown(what)


def test_a_slow_down_is_found_with_its_size() -> None:
    """At a noise of 1 % all 10 % and most 5 % are found, without bias, and 95 % of intervals hold what was planted."""
    runs = simulated(40, 0.01)
    two, five, ten = (figures.found(runs, part) for part in PARTS)
    assert ten.share.mean == 1.0
    assert five.share.mean >= 0.9
    assert two.share.mean < 0.9
    assert five.estimate.mean == pytest.approx(0.05, abs=0.005)
    assert five.rmse == pytest.approx(0.01 * math.sqrt(2 / 5), rel=0.4)
    assert five.coverage.mean >= 0.85


def test_the_harness_s_cost_is_a_paired_ratio() -> None:
    """Half a per cent more in every pair, whatever the pairs; a mode that was not run has no cost."""
    pairs = [
        Harness(mode="load", pair=number, harness_seconds=1.005 * seconds, plain_seconds=seconds)
        for number, seconds in enumerate((1.0, 2.0, 3.0))
    ]
    found = figures.cost(pairs, "load")
    assert found is not None
    assert (found.mean, found.high) == pytest.approx((1.005, 1.005))
    assert figures.cost(pairs, "train") is None
    assert figures.cost_is_sure(pairs)
    dear = [pair.model_copy(update={"harness_seconds": 1.02 * pair.plain_seconds}) for pair in pairs]
    assert figures.short(Calibration({}, tuple(simulated(40, 0.02)), tuple(dear))) == [
        "harness, load: it costs 2.0% of an epoch"
    ]


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    """Line by line, to six digits; a folder without a calibration, and a file that is none, are errors that say so."""
    with pytest.raises(DataError, match=r"holds no runs\.csv"):
        calibration.read(tmp_path)
    runs = [run_of(0, number, "1a", 0.123456, 0.02) for number in range(2)]
    calibration.keep(tmp_path, runs[:1])
    calibration.keep(tmp_path, runs[1:])
    assert calibration.measured(tmp_path) == runs
    (tmp_path / calibration.RUNS).write_text("experiment,round\nx,y\n")
    with pytest.raises(DataError, match=r"runs\.csv: experiment"):
        calibration.measured(tmp_path)


def test_the_full_size_is_what_the_method_promises() -> None:
    """200 disjoint pairs, and each slow-down in at least 20 experiments; names and seeds are all distinct."""
    plans = [calibrate.experiment(number, FULL) for number in range(FULL.experiments)]
    assert FULL.experiments * FULL.pairs == 200
    for part in PLANTED:
        assert sum(any(cell.planted == part for cell in plan.cells) for plan in plans) >= 20
    assert all(len(set(plan.cells)) == len(plan.cells) for plan in plans)
    assert len({plan.seed + number for plan in plans for number in range(plan.rounds)}) == FULL.experiments * 5


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration of seconds: tiny pictures, one experiment of one pair, and a pair of runs for the harness."""
    data = "synthetic:train=64,val=16,size=16,classes=4,codec=jpeg"
    monkeypatch.setattr(calibrate, "QUICK", Size(experiments=1, pairs=1, planted_every=1, load=2, train=1))
    for name in ("BASE", "LOAD"):
        monkeypatch.setattr(calibrate, name, getattr(calibrate, name).model_copy(update={"dataset": data}))
    monkeypatch.setattr(calibrate, "TRAIN", calibrate.TRAIN.model_copy(update={"dataset": data.replace(",codec=jpeg", "")}))
    monkeypatch.setattr(calibrate, "ROUNDS", 2)


@pytest.mark.usefixtures("small")
def test_a_small_calibration_runs_reports_and_goes_on(loadstone: Callable[..., Any], tmp_path: Path) -> None:
    """Through the real runner; what is there is not run again, the report is made anew alike, another size is refused."""
    found = loadstone("calibrate", "--quick", "--out", "out", "--threads", "1")
    assert found.status in (0, 3), found.err
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert sorted(files) == ["calibration.md", "environment.json", "harness.csv", "runs.csv"]
    runs = calibration.measured(tmp_path / "out")
    assert sorted({run.cell for run in runs}) == ["1a", "1b", "planted 0.02", "planted 0.05"]
    assert len(runs) == 8
    assert all(run.loading > 0 and 0 < run.wait_share < 1 for run in runs)
    assert [(pair.mode, pair.pair) for pair in calibration.harness(tmp_path / "out")] == [
        ("load", 0),
        ("load", 1),
        ("train", 0),
    ]
    assert "What the harness costs" in found.out
    again = loadstone("calibrate", "--quick", "--out", "out", "--threads", "1")
    assert again.status == found.status
    assert loadstone("calibrate", "--report", "out").status == found.status
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files
    refused = loadstone("calibrate", "--quick", "--out", "out", "--threads", "2")
    assert refused.status == 2
    assert "another machine, version or size" in refused.err


@pytest.mark.usefixtures("small")
def test_what_was_interrupted_goes_on_where_it_was(
    loadstone: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The experiment that finished is kept; one cut short leaves nothing behind, and Ctrl-C is status 130."""

    def interrupted(*_: object) -> None:
        (tmp_path / "out" / "unfinished").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(calibrate.Calibrator, "_harness", interrupted)
        assert loadstone("calibrate", "--quick", "--out", "out", "--threads", "1").status == 130
    kept = (tmp_path / "out" / "runs.csv").read_bytes()
    assert loadstone("calibrate", "--quick", "--out", "out", "--threads", "1").status in (0, 3)
    assert (tmp_path / "out" / "runs.csv").read_bytes() == kept
    assert not (tmp_path / "out" / "unfinished").exists()


@pytest.fixture
def torch_as_it_was() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("torch_as_it_was")
@pytest.mark.parametrize("mode", ["load", "train"])
def test_the_loop_by_hand_does_the_work_of_the_harness(mode: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads as many pictures an epoch, in the same order; nothing but the harness is left out."""
    data = "synthetic:train=64,val=16,size=16,classes=4"
    root = pack(open_source(data, tmp_path), "mmap", tmp_path).root
    monkeypatch.setattr("bench.running.worker.LOAD_SECONDS", 1e-9)
    cell = Cell(dataset=data, backend="mmap", mode=mode, model="resnet8" if mode == "train" else None, protocol="quick")
    read: list[int] = []

    def counted(*args: Any, **options: Any) -> Any:
        found = loader(*args, **options)
        whole = found.reader.read

        def reading(indices: Any, *rest: Any) -> None:
            read.extend(indices)
            whole(indices, *rest)

        monkeypatch.setattr(found.reader, "read", reading)
        return found

    monkeypatch.setattr("bench.calibrating.by_hand.loader", counted)
    assert by_hand.run(by_hand.Plain(cell, root, 3, 1)) > 0
    passes = len(read) // 64
    assert passes == (3 if mode == "train" else 4)  # load: one for the number of passes
    assert all(sorted(read[64 * number : 64 * (number + 1)]) == list(range(64)) for number in range(passes))
