"""What to use under an aim, and when the evidence is too thin to say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.record import Record
from bench.reporting import verdict
from bench.reporting.recommend import advise
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
    """Disk: the next best takes 2.5 times the bytes, and the choice a third more time than the fastest."""
    found = advise(rows(records), "disk")
    assert found.next_best is not None
    assert found.loss is not None
    assert found.slower is not None
    assert (found.next_best.cell.backend, found.loss.mean, found.loss.low) == ("hdf5", 2.5, None)
    assert found.slower.mean == pytest.approx(1.30, abs=0.005)
    lines = "\n".join(verdict.recommendation(rows(records), "disk"))
    assert "For this data and machine and little disk use png (20 MiB)." in lines
    assert "The next best, hdf5, needs 150.0 % more disk." in lines


def test_speed_names_equals_and_the_next_best(records: list[Record]) -> None:
    """The row of hdf5 ties; png is the first that does not."""
    lines = "\n".join(verdict.recommendation(rows(records), "speed"))
    assert "use mmap; hdf5 is its equal in training." in lines
    assert "The next best, png, needs 30" in lines


def test_where_the_model_is_the_limit_any_format_will_do(make: MakeRecord) -> None:
    """If no format costs over 5 %, interval and all; one slow format is enough to break it."""
    calm = rounds(make, "mmap", [1.00, 1.01, 1.02]) + rounds(make, "hdf5", [1.001, 1.011, 1.022])
    calm += rounds(make, "memory", [0.99, 1.00, 1.01], mode="compute")
    assert advise(rows(calm), "speed").any_will_do
    assert "Any format will do" in "\n".join(verdict.recommendation(rows(calm), "speed"))
    slow = [*calm, *rounds(make, "png", [1.3, 1.31, 1.32])]
    assert not advise(rows(slow), "speed").any_will_do


def test_the_fewest_workers_that_are_as_good_are_enough(make: MakeRecord) -> None:
    """Two are as good as four, none is worse; with one number of workers there is nothing to say."""
    records = rounds(make, "mmap", [2.00, 2.01, 2.03]) + rounds(make, "mmap", [1.005, 1.01, 1.012], workers=2)
    records += rounds(make, "mmap", [1.00, 1.01, 1.01], workers=4)
    assert advise(rows(records), "speed").workers == 2
    assert "2 workers are enough" in "\n".join(verdict.recommendation(rows(records), "speed"))
    assert advise(rows(records[:3]), "speed").workers is None


def test_thin_evidence_is_said(make: MakeRecord) -> None:
    """One run decides nothing, two leave it wide, a wide spread asks for rounds; nothing that ran is no verdict."""
    one = verdict.recommendation(rows([make("mmap"), make("hdf5", (1.0, 0.5))]), "speed")
    assert "nothing is decided" in one[0]
    two = rounds(make, "mmap", [1.0, 1.1]) + rounds(make, "hdf5", [1.1, 1.1])
    assert any("Two runs are too few to name the fastest" in line for line in verdict.recommendation(rows(two), "speed"))
    wide = rounds(make, "mmap", [1.0, 1.6, 1.1]) + rounds(make, "hdf5", [1.2, 1.1, 1.5])
    assert any("a new experiment of about" in line for line in verdict.recommendation(rows(wide), "speed"))
    none = verdict.recommendation(rows(rounds(make, "memory", [1.0, 1.0])), "speed")
    assert none == ["No storage format ran here: no verdict."]
    unknown = rounds(make, "mmap", [1.0, 1.0, 1.0])
    assert verdict.recommendation(rows(unknown), "memory") == ["No record says how much memory a storage format takes here."]


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
    assert loadstone("recommend", folder, "--for", "beauty").status == 2
    assert loadstone("recommend", tmp_path / "nothing").status == 4
