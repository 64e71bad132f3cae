"""Loading time, and the epoch that it makes: figures by hand, and what the estimates are worth, by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import record, stats
from bench.experiment import Cell
from bench.record import Epoch, Record
from bench.reporting.loading import FLOOR, Loading, beside, break_even, loading, training_speed
from bench.reporting.summary import Row, summary
from bench.reporting.ties import ties
from bench.runs import gather

MakeRecord = Callable[..., Record]
IMAGES = 1000
EXCERPT = Path(__file__).parent / "data" / "reference"  # of a real run: every training's measured epochs


def trained(
    backend: str, number: int, epochs: Sequence[tuple[float, float, float]], make: MakeRecord, engine: str = "threads"
) -> Record:
    """A run of (wait, step, alone) seconds for each epoch of 1,000 images, the first included."""
    found = tuple(
        Epoch(
            total=wait + step,
            wait=wait,
            copy_=0.0,
            step=step,
            images=IMAGES,
            first_batch=0.01,
            alone=alone,
            alone_images=IMAGES,
        )
        for wait, step, alone in epochs
    )
    return make(backend, round=number, epochs=found, train_images=IMAGES, engine=engine)


def held(records: Sequence[Record]) -> dict[str, Loading]:
    return {cell.backend: found for cell, found in loading(gather(records)).items()}


def test_the_figures_of_a_run_by_hand(make: MakeRecord) -> None:
    """Waited 10 ms of 1,000 images; the model alone takes 1 s, and loading beside it slows it by nothing."""
    records = [trained("mmap", number, [(0.5, 1.2, 1.0), (0.01, 1.0, 1.0), (0.01, 1.0, 1.0)], make) for number in range(3)]
    found = held(records)["mmap"]
    assert found.values == pytest.approx(dict.fromkeys(range(3), 10e-6))
    for interval, mean in ((found.time, 10e-6), (found.alone, 1e-3), (found.epoch, 1.01), (found.cost, 0.01 / 1.01)):
        assert interval is not None
        assert interval.mean == pytest.approx(mean)
    assert found.slowdown is not None
    assert found.slowdown.mean == pytest.approx(1.0)
    assert not found.slowed


def test_a_slowed_model_counts_as_loading(make: MakeRecord) -> None:
    """Steps that take a tenth longer than alone, before and after, in every round: 100 ms of 1,000 images more."""
    calm = [trained("mmap", number, [(0, 1, 1), (0.01, 1.0, 1.0), (0.01, 1.0, 1.0)], make) for number in range(3)]
    slow = [trained("dali", number, [(0, 1, 1), (0.01, 1.1, 1.0), (0.01, 1.1, 1.0)], make) for number in range(3)]
    found = held(calm + slow)
    assert found["dali"].slowed
    assert found["dali"].values == pytest.approx(dict.fromkeys(range(3), 110e-6))
    assert found["mmap"].values == pytest.approx(dict.fromkeys(range(3), 10e-6))


def test_a_slow_process_is_not_a_slow_format(make: MakeRecord) -> None:
    """One process, its model alone included, is slower by a fifth: nothing is held against its format."""
    calm = [trained("mmap", number, [(0, 1, 1), (0.01, 1.0, 1.0), (0.01, 1.0, 1.0)], make) for number in range(3)]
    slow = [trained("hdf5", number, [(0, 1.2, 1.2), (0.01, 1.2, 1.2), (0.01, 1.2, 1.2)], make) for number in range(3)]
    found = held([*calm, *calm_of("zarr", make), *slow])
    assert not found["hdf5"].slowed
    assert found["hdf5"].epoch == found["mmap"].epoch


def calm_of(backend: str, make: MakeRecord) -> list[Record]:
    return [trained(backend, number, [(0, 1, 1), (0.01, 1.0, 1.0), (0.01, 1.0, 1.0)], make) for number in range(3)]


def test_what_is_read_when_asked_for_slows_no_model(make: MakeRecord) -> None:
    """The model waits meanwhile: its steps are the model alone, whatever those in place took."""
    epochs = [(0, 1.1, 1.0), (0.01, 1.1, 1.0), (0.01, 1.1, 1.0)]
    found = held([trained("mmap", number, epochs, make, "torch") for number in range(3)])["mmap"]
    assert found.slowdown is None
    assert found.alone is not None
    assert found.alone.mean == pytest.approx(1.1e-3)
    assert found.values == pytest.approx(dict.fromkeys(range(3), 10e-6))


def test_a_burst_in_one_epoch_is_not_a_slowed_model(make: MakeRecord) -> None:
    """The median over a run's epochs passes over it."""
    epochs = [(0, 1, 1), (0.01, 1.0, 1.0), (0.01, 1.9, 1.0), (0.01, 1.0, 1.0)]
    (one,) = gather([trained("mmap", 0, epochs, make)])
    assert one.slowdown == pytest.approx({0: 1.0})


def test_to_wait_for_nothing_is_no_difference(make: MakeRecord) -> None:
    """Less than 10 ns an image counts as 10 ns, and rows that differ below it are equal."""
    records = [
        trained(name, number, [(0, 1, 1), (wait, 1, 1)], make)
        for number in range(3)
        for name, wait in (("a", 0.0), ("b", 5e-6))
    ]
    assert [found.time.mean for found in held(records).values() if found.time] == pytest.approx([FLOOR, FLOOR])
    assert {row.cell.backend: row.tied_best for row in summary(records)} == {"a": None, "b": True}


def test_the_speed_of_training_by_its_model() -> None:
    """Times add up where loading and model take turns; beside each other the slower decides. At 5 % is the break-even."""
    assert training_speed(1000, 9000, overlapped=False) == pytest.approx(900)
    assert training_speed(1000, 9000, overlapped=True) == 1000
    assert training_speed(9000, 1000, overlapped=True) == 1000
    for overlapped in (False, True):
        speed = break_even(9500, overlapped=overlapped)
        assert 1 - training_speed(speed, 9500, overlapped=overlapped) / speed == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("engine", "workers", "device", "apart"),
    [
        ("threads", 0, "cpu", False),
        ("torch", 2, "cpu", False),
        ("torch", 0, "a GPU", False),
        ("torch", 2, "a GPU", True),
        ("threads", 0, "a GPU", True),
    ],
)
def test_only_beside_a_gpu_are_processors_its_own(engine: Any, workers: int, device: str, apart: bool) -> None:
    """A model on a CPU takes all its cores; reading when asked is beside nothing."""
    cell = Cell(dataset="d", backend="mmap", protocol="quick", mode="load", engine=engine, workers=workers)
    assert beside(cell, device) is apart


class World:
    """Experiments whose truth is known: ``rows`` of formats that wait differently, steps that vary as they do here."""

    def __init__(self, seed: int, make: MakeRecord) -> None:
        self.draw, self.make = np.random.Generator(np.random.Philox(key=seed)), make

    def records(self, waits: Sequence[float], rounds: int = 3, slowed: float = 1.0, spread: float = 0.06) -> list[Record]:
        """Steps of 1 s, of which a process is slower or faster by 5 %, an epoch by 4 %; the first row's are ``slowed``."""
        found = []
        for number in range(rounds):
            minute = self.draw.normal(0, 0.03)
            for place, wait in enumerate(waits):
                process = math.exp(minute + self.draw.normal(0, 0.05))
                waited = wait * math.exp(self.draw.normal(0, spread))
                slow = slowed if place == 0 else 1.0
                burst = np.exp(self.draw.normal(0, 0.04, (4, 2)))
                epochs = [(waited, process * slow * step, process * alone) for step, alone in burst]
                found.append(trained(f"row{place}", number, epochs, self.make))
        return found


def share(hits: int, of: int) -> stats.Interval:
    return stats.proportion_interval(hits, of, 0.999)


def test_the_estimated_epoch_covers_the_truth(make: MakeRecord) -> None:
    """Step and loading, of every row of six, in 95 of 100 experiments of three rounds, sampling error allowed."""
    world, waits, covered = World(1, make), [0.003, 0.003, 0.009, 0.011, 0.015, 0.5], 0
    for _ in range(60):
        for place, found in enumerate(held(world.records(waits)).values()):
            assert found.epoch is not None
            # The mean of a factor that spreads by 6 % is 0.2 % over its middle; a round's own 3 % is nobody's.
            covered += found.epoch.excludes(1.0 + waits[place]) is False
    high = share(covered, 60 * 6).high
    assert high is not None
    assert high >= 0.95


@pytest.mark.parametrize("slowed", [1.0, 1.08])
def test_equal_rows_are_told_apart_as_rarely_as_they_should(make: MakeRecord, slowed: float) -> None:
    """Of five equal rows any pair in no more than 5 % of experiments, also beside a row that slows the step."""
    world, alarms, tables = World(2, make), 0, 60
    for _ in range(tables):
        rows = [row for row in summary(world.records([0.01] * 6, slowed=slowed)) if row.cell.backend != "row0"]
        alarms += told_apart(rows) > 0
    low = share(alarms, tables).low
    assert low is not None
    assert low <= 0.05


def told_apart(rows: Sequence[Row]) -> int:
    return sum(tied is False for tied in ties([row.judged for row in rows]).values())


def test_a_slowed_step_is_found_and_no_other_is(make: MakeRecord) -> None:
    """A fifth is found in most experiments of five rounds; of rows that slow nothing, few are called slow."""
    world, found, wrong, tables = World(3, make), 0, 0, 30
    for _ in range(tables):
        rows = held(world.records([0.01] * 6, rounds=5, slowed=1.2))
        found += rows["row0"].slowed
        wrong += any(rows[f"row{place}"].slowed for place in range(1, 6))
    assert found >= 0.9 * tables
    low = share(wrong, tables).low
    assert low is not None
    assert low <= 0.05


def test_loading_that_differs_by_a_fifth_is_told_apart_where_epochs_are_not(make: MakeRecord) -> None:
    """Three rounds, 1 % of an epoch: the loading times differ, the epochs drown in what processes differ by."""
    world, by_loading, by_epoch, tables = World(4, make), 0, 0, 20
    for _ in range(tables):
        rows = summary(world.records([0.010, 0.0125, 0.0156, 0.0195, 0.0244, 0.0305]))
        by_loading += told_apart(rows)
        by_epoch += sum(tied is False for tied in ties([row.seconds for row in rows]).values())
    assert by_loading > 0.7 * 15 * tables
    assert by_epoch < 0.05 * 15 * tables


def test_half_the_pairs_of_a_real_run_are_told_apart() -> None:
    """Three rounds of six formats on two data sets and two networks: at least 30 of 60 pairs, where epochs told one."""
    rows = [row for row in summary(record.read(EXCERPT)) if row.cell.mode == "train"]
    groups = {row.group: [other for other in rows if other.group == row.group] for row in rows}
    assert [len(group) for group in groups.values()] == [6] * 4
    assert sum(map(told_apart, groups.values())) >= 30
