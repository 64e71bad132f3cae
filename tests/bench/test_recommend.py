"""What to use under an aim, and when the evidence is too thin to say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.record import Record
from bench.reporting import verdict
from bench.reporting.recommend import advise, feeds, fewest_workers, most_cost
from bench.reporting.summary import Row, summary

MakeRecord = Callable[..., Record]
MB = 2**20


def rounds(make: MakeRecord, backend: str, means: list[float], **fields: Any) -> list[Record]:
    return [make(backend, (9.0, mean - 0.02, mean + 0.02), round=number, **fields) for number, mean in enumerate(means)]


def rows(records: list[Record]) -> list[Row]:
    return [row for row in summary(records) if row.cell.mode != "compute"]


@pytest.fixture
def records(make: MakeRecord) -> list[Record]:
    """The mmap rows are fast, hdf5 its equal but smaller by a half; png takes a fifth of the disk and a third more time."""
    return [
        *rounds(make, "mmap", [1.00, 1.01, 1.02], store_bytes=100 * MB, pss_bytes=900 * MB),
        *rounds(make, "hdf5", [1.00, 1.02, 1.02], store_bytes=50 * MB, pss_bytes=500 * MB),
        *rounds(make, "png", [1.30, 1.31, 1.33], store_bytes=20 * MB, pss_bytes=500 * MB + 1),
        *rounds(make, "memory", [1.00, 1.01, 1.02]),
        *rounds(make, "memory", [0.99, 1.00, 1.01], mode="compute"),
    ]


def chosen(records: list[Record], aim: Any) -> str:
    found = advise(rows(records), aim).chosen
    return found.cell.backend if found else ""


def test_each_aim_has_a_choice_of_its_own(records: list[Record]) -> None:
    """The fastest, the smallest, and of two that take the same memory the faster; never memory, which is a bound."""
    assert chosen(records, "speed") == "mmap"
    assert chosen(records, "disk") == "png"
    assert chosen(records, "memory") == "hdf5"


def test_what_is_given_away_is_said(records: list[Record]) -> None:
    """Disk: the next best takes 2.5 times the bytes."""
    found = advise(rows(records), "disk")
    assert found.next_best is not None
    assert found.loss is not None
    assert (found.next_best.cell.backend, found.loss.mean, found.loss.low) == ("hdf5", 2.5, None)
    lines = "\n".join(verdict.recommendation(rows(records), "disk"))
    assert "For this data and machine and little disk use png (20 MiB)." in lines
    assert "The next best, hdf5, needs 150.0 % more disk." in lines


def test_speed_names_equals_and_the_next_best(records: list[Record]) -> None:
    """The row of hdf5 ties; png is the first that does not."""
    lines = "\n".join(verdict.recommendation(rows(records), "speed"))
    assert "use mmap; hdf5 is its equal." in lines
    assert "The next best, png, needs 277 %" in lines
    assert "more loading time" in lines


def test_where_the_model_is_the_limit_it_is_said(make: MakeRecord) -> None:
    """If no format costs 5 % of an epoch; one slow format is enough to break it."""
    calm = rounds(make, "mmap", [1.00, 1.01, 1.02], wait=0.01) + rounds(make, "hdf5", [1.0, 1.0, 1.0], wait=0.02)
    assert most_cost(rows(calm)) == pytest.approx(0.02, abs=0.001)
    assert "No format costs training more than 2.0 % of an epoch." in verdict.recommendation(rows(calm), "speed")
    slow = rows([*calm, *rounds(make, "png", [1.3, 1.31, 1.32], wait=0.3)])
    assert not any("No format costs" in line for line in verdict.recommendation(slow, "speed"))


def test_the_fewest_workers_that_are_as_good_are_enough(make: MakeRecord) -> None:
    """Two are as good as four, none is worse; with one number of workers there is nothing to say."""
    records = rounds(make, "mmap", [2.00, 2.01, 2.03]) + rounds(make, "mmap", [1.102, 1.11, 1.106], workers=2)
    records += rounds(make, "mmap", [1.10, 1.11, 1.107], workers=4)
    assert advise(rows(records), "speed").workers == 2
    assert "2 workers are enough" in "\n".join(verdict.recommendation(rows(records), "speed"))
    assert advise(rows(records[:3]), "speed").workers is None


def test_thin_evidence_is_said(make: MakeRecord) -> None:
    """One run decides nothing; nothing that ran is no verdict; what no record says is not made up."""
    one = verdict.recommendation(rows([make("mmap"), make("hdf5", (1.0, 0.95))]), "speed")
    assert one == ["One run decides nothing; hdf5 was the fastest."]
    two = verdict.recommendation(rows(rounds(make, "mmap", [1.0, 1.1]) + rounds(make, "hdf5", [1.2, 1.3])), "speed")
    assert two == ["Two runs are too few to name the best; mmap was the fastest."]
    none = verdict.recommendation(rows(rounds(make, "memory", [1.0, 1.0])), "speed")
    assert none == ["No storage format ran here, or all did other work than was asked for."]
    unknown = rounds(make, "mmap", [1.0, 1.0, 1.0])
    assert verdict.recommendation(rows(unknown), "memory") == ["No record says how much memory a storage format takes here."]


def test_a_training_elsewhere_is_fed_with_the_fewest_workers(make: MakeRecord) -> None:
    """Mmap feeds it with one thread, hdf5 with two; png by none; what reads when asked adds to every image."""
    records = [
        *rounds(make, "mmap", [0.1] * 3, mode="load", engine="threads", workers=1),
        *rounds(make, "mmap", [0.06] * 3, mode="load", engine="threads", workers=2),
        *rounds(make, "hdf5", [0.2] * 3, mode="load", engine="threads", workers=1),
        *rounds(make, "hdf5", [0.1] * 3, mode="load", engine="threads", workers=2),
        *rounds(make, "png", [0.1] * 3, mode="load"),
    ]
    found = rows(records)
    fed = {(each.row.cell.backend, each.row.cell.workers): each for each in feeds(found, 4000)}
    assert fed["hdf5", 1].cost == pytest.approx(1 - 512 / 0.2 / 4000)
    assert fed["png", 0].cost == pytest.approx(1 - 1 / (1 + 0.1 / 512 * 4000))
    assert [(each.row.cell.backend, each.row.cell.workers) for each in fewest_workers(feeds(found, 4000))] == [
        ("mmap", 1),
        ("hdf5", 2),
    ]
    names = {row.cell: row.cell.backend for row in found}
    lines = "\n".join(verdict.for_training(found, names, 4000))
    assert "mmap, 1 threads" not in lines
    assert "mmap, 1 thread, 5.1 k images/s by itself: 0.0 %" in lines
    assert "Too slow for it: png." in lines
    assert "Nothing measured here feeds 1.0 M images/s: the nearest, mmap" in verdict.for_training(found, names, 1e6)[0]
    assert "was measured by itself" in verdict.for_training(rows(rounds(make, "mmap", [1.0])), names, 1.0)[0]


def test_a_format_that_did_other_work_is_never_recommended(make: MakeRecord, records: list[Record]) -> None:
    """It read in another order, and is named."""
    odd = rounds(make, "tiny", [0.5, 0.5, 0.5], store_bytes=1, pss_bytes=1, order_sha256="other")
    for aim in ("speed", "disk", "memory"):
        assert chosen(records + odd, aim) == chosen(records, aim)
    assert "unequal work: tiny" in "\n".join(verdict.recommendation(rows(records + odd), "disk"))


def test_the_command_speaks_for_every_group(
    loadstone: Callable[..., Any], tmp_path: Path, records: list[Record], folder_of: Callable[..., Path]
) -> None:
    """A caption, then the advice; a wrong aim is status 2, a folder without a run status 4."""
    folder = folder_of(tmp_path / "run", records)
    found = loadstone("recommend", folder, "--for", "disk")
    assert found.status == 0
    assert "cifar10 · resnet8 · protocol quick · 3 rounds" in found.out
    assert "little disk use png" in found.out
    assert "was measured by itself" in loadstone("recommend", folder, "--train-speed", "1000").out
    assert loadstone("recommend", folder, "--for", "beauty").status == 2
    assert loadstone("recommend", tmp_path / "nothing").status == 4
