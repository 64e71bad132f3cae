"""The first table: methods against data sets, on one screen, and what is said below it."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.record import Record
from bench.reporting import table, wording
from bench.reporting.headline import headline
from bench.reporting.summary import summary
from bench.reporting.verdict import verdict
from bench.reporting.wording import Setting

MakeRecord = Callable[..., Record]
PLACE = Setting("quick", "AMD EPYC, 2 cores", "2.14.1")


def rounds(make: MakeRecord, backend: str, waits: Sequence[float], **fields: Any) -> list[Record]:
    """A record a round, of epochs that wait so long beside 0.9 s of the model's own work; loading takes no more."""
    if fields.get("mode") == "load":
        return [make(backend, (9.0, wait, wait), wait, round=number, **fields) for number, wait in enumerate(waits)]
    return [make(backend, (9.0, 0.9 + wait, 0.9 + wait), wait, round=number, **fields) for number, wait in enumerate(waits)]


@pytest.fixture
def records(make: MakeRecord) -> list[Record]:
    """Two data sets and models; hdf5 ties with mmap, files are slower; dali is not there."""
    found = []
    for dataset, slower in (("cifar10", 1.0), ("tiny-imagenet", 4.0)):
        for model in ("resnet8", "linear"):
            found += rounds(make, "mmap", [0.010 * slower, 0.0101 * slower, 0.0102 * slower], dataset=dataset, model=model)
            found += rounds(make, "hdf5", [0.0101 * slower, 0.01 * slower, 0.0103 * slower], dataset=dataset, model=model)
            found += rounds(make, "filesystem", [0.03 * slower, 0.031 * slower, 0.0305 * slower], dataset=dataset, model=model)
            found.append(make("dali", status="unavailable", error="not installed", dataset=dataset, model=model))
        for backend, taken in (("mmap", 0.0100), ("hdf5", 0.0101), ("filesystem", 0.03)):
            found += rounds(make, backend, [taken * slower] * 3, dataset=dataset, mode="load")
    return found


def screen(records: list[Record]) -> list[str]:
    rows = summary(records)
    file = io.StringIO()
    text = table.headline_to_terminal(headline(rows, PLACE), verdict(rows, wording.ways(rows)))
    Console(file=file, width=200).print(text, soft_wrap=True, end="")
    return file.getvalue().splitlines()


def notes(records: list[Record]) -> str:
    return " ".join(headline(summary(records), PLACE).notes)


def test_the_answer_is_one_screen(records: list[Record]) -> None:
    """45 lines of 100 columns with captions and verdict, for two data sets, two models, six formats."""
    lines = screen(records)
    assert len(lines) <= 45 - 6  # three formats more in two tables
    assert max(map(len, lines)) <= 100


def test_a_row_is_a_way_of_loading_and_its_figures_are_right(records: list[Record]) -> None:
    """Loading alone, break-even, disk, then the loading time and the epoch of each training; by hand."""
    lines = screen(records)
    row = next(line for line in lines if line.startswith(" filesystem"))
    # 512 images in 0.03 s; a nineteenth of it; 0.0305 s of 512 images, and with 0.9 s of the model's own work.
    assert row.split() == [
        "filesystem", "17", "k", "898", "147", "60", "±2", "0.930", "±0.001", "60", "±2", "0.930", "±0.001",
    ]  # fmt: skip
    mmap, hdf5 = (next(line for line in lines if line.startswith(f" {name}")) for name in ("mmap", "hdf5"))
    assert "19.7 ±0.5 *" in mmap
    assert "=" in hdf5
    assert [line.split()[0] for line in lines if line[1:5] in ("mmap", "hdf5", "file")][:3] == ["mmap", "hdf5", "filesystem"]


def test_data_sets_stand_side_by_side_as_far_as_there_is_room(records: list[Record]) -> None:
    """One training fits beside another data set's; two do not."""
    assert [panel.title for panel in headline(summary(records), PLACE).panels] == ["cifar10", "tiny-imagenet"]
    alone = [record for record in records if record.cell.mode == "load"]
    assert [panel.title for panel in headline(summary(alone), PLACE).panels] == ["cifar10 | tiny-imagenet"]
    assert max(map(len, screen(alone))) <= 100


def test_more_trainings_than_fit_are_continued_below(make: MakeRecord, records: list[Record]) -> None:
    """The fastest model first; no line is wider than the screen, and none of the figures is left out."""
    many = [
        make(name, (9.0, 0.9, 0.9), 0.01, model=model, round=number)
        for number in range(3)
        for name in ("mmap", "hdf5")
        for model in ("resnet20", "resnet56", "densenet22")
    ]
    cifar = [record for record in records if record.cell.dataset == "cifar10"] + many
    panels = headline(summary(cifar), PLACE).panels
    assert [panel.title for panel in panels] == ["cifar10", *["cifar10, continued"] * (len(panels) - 1)]
    trained = [column.title[0] for panel in panels for column in panel.columns if "µs an image" in column.title]
    assert sorted(trained) == ["densenet22", "linear", "resnet20", "resnet56", "resnet8"]
    assert max(map(len, screen(cifar))) <= 100


def test_the_readme_shows_the_first_panels(records: list[Record], tmp_path: Path) -> None:
    """Neither what is continued, nor the details; the legend and the verdict."""
    spec = importlib.util.spec_from_file_location("readme", Path(__file__).parents[2] / "docs" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    panels = "".join(f"### {name}\n\n| x |\n\n" for name in ("a", "a, continued", "b, continued"))
    notes = "".join(f"- note {number}\n" for number in range(5))
    text = f"caption\n\n{panels}{notes}\n**verdict**\n\n## Details\nmore\n"
    assert readme.first(text) == "caption\n\n### a\n\n| x |\n\n- note 0\n- note 1\n- note 2\n\n**verdict**\n"


def test_what_did_not_run_is_named_once(records: list[Record]) -> None:
    """With its reason, below; no row is spent on it."""
    assert notes(records).count("dali") == 1
    assert "Not run: dali (not installed)." in notes(records)
    assert not any(line.startswith(" dali") for line in screen(records))


def test_accuracy_is_a_line_a_training(records: list[Record]) -> None:
    """It is a fact of the protocol: equal losses say so, with the spread over seeds."""
    assert "cifar10, resnet8: accuracy 39.0 % ±2.5 (3 seeds), F1 0.37; losses of all 3 equal bit for bit." in notes(records)


def test_other_losses_are_said_aloud(make: MakeRecord) -> None:
    """Unless they are of another codec, or of a GPU."""
    same = [make("mmap"), make("hdf5")]
    assert "NOT THE SAME TRAINING: lmdb accuracy 38.0 %, F1 0.37" in notes([*same, make("lmdb", losses=(1.0, 1.0))])
    assert "; of another codec: lmdb" in notes([*same, make("lmdb", losses=(1.0, 1.0), codec="jpeg")])
    gpu = [make(name, losses=(place, 1.0), device="a GPU") for place, name in enumerate(("mmap", "hdf5"))]
    assert "all 2: 38.0 to 38.0 % (a GPU's sums have no fixed order)" in notes(gpu)


def test_a_prediction_that_fails_is_said_aloud(make: MakeRecord, records: list[Record]) -> None:
    """Loading alone takes a tenth of what training waits for."""
    assert "as predicted from loading alone is within" in notes(records)
    odd = rounds(make, "zarr", [0.5] * 3) + rounds(make, "zarr", [0.05] * 3, mode="load")
    assert "TRAINING IS NOT AS PREDICTED from loading alone, by over 10 %: zarr, cifar10, resnet8 +47 %" in notes(records + odd)


def test_other_work_has_a_mark_and_no_rank(make: MakeRecord, records: list[Record]) -> None:
    """It may be fast; it is neither the fastest format, nor part of the verdict."""
    odd = rounds(make, "lmdb", [0.001, 0.001, 0.0011], order_sha256="other")
    lines = screen(records + odd)
    assert "†" in next(line for line in lines if line.startswith(" lmdb"))
    assert any("† other work" in line for line in lines)
    assert "lmdb" not in " ".join(verdict(summary(records + odd), wording.ways(summary(records + odd))))


def test_memory_is_a_bound(make: MakeRecord, records: list[Record]) -> None:
    """It is in the table, named for what it is, and never the fastest."""
    ram = rounds(make, "memory", [0.001, 0.001, 0.0011])
    row = next(line for line in screen(records + ram) if line.startswith(" memory (RAM)"))
    assert "*" not in row
    assert "memory" not in " ".join(verdict(summary(records + ram), wording.ways(summary(records + ram))))


def said(records: list[Record]) -> tuple[str, ...]:
    rows = summary(records)
    return verdict(rows, wording.ways(rows))


def test_where_loading_costs_little_the_verdict_says_so(records: list[Record]) -> None:
    """Three sentences: what it costs at most, from which speed on it matters, what is the fastest."""
    cheap = [record for record in records if record.cell.dataset == "cifar10"]
    assert said(cheap) == (
        "Whatever the format, training here loses at most 3.3 % of an epoch to loading (resnet8 on cifar10, filesystem): "
        "choose by disk space and convenience.",
        "Loading costs under 5 % of an epoch at up to 898 images/s from any format and 2.7 k from mmap (cifar10).",
        "The fastest everywhere, or not told from it: mmap and hdf5.",
    )


def test_where_loading_costs_much_the_verdict_names_the_range(make: MakeRecord) -> None:
    """The training that it costs most, from the best to the worst; and the model that it costs nothing."""
    records = rounds(make, "mmap", [0.1, 0.101, 0.1], model="linear") + rounds(make, "png", [0.9, 0.91, 0.9], model="linear")
    records += rounds(make, "mmap", [0.01, 0.01, 0.01]) + rounds(make, "png", [0.02, 0.02, 0.02])
    assert said(records)[0] == (
        "linear on cifar10, which trains 569 images/s, loses 10 % of an epoch with mmap and 50 % with png; "
        "resnet8 at most 2.2 % with any."
    )


def test_a_verdict_needs_rounds_and_formats(make: MakeRecord) -> None:
    """One round decides nothing, and no storage format is no verdict; neither asks for a number of rounds."""
    assert said([make("mmap"), make("hdf5")]) == (
        "One round has no intervals, so nothing is decided: run with --rounds 3 or more.",
    )
    two = said([*rounds(make, "mmap", [0.01, 0.01]), *rounds(make, "hdf5", [0.02, 0.02])])
    assert two[0].startswith("Whatever the format")
    assert two[-1] == "Two rounds are too few to name the fastest: run with --rounds 3 or more."
    assert "No storage format ran here" in said([make("memory")])[0]


def test_a_markdown_page_begins_with_the_same(records: list[Record]) -> None:
    """The panels as tables, the notes as a list, the verdict last."""
    rows = summary(records)
    text = table.headline_to_markdown(headline(rows, PLACE), verdict(rows, wording.ways(rows)))
    assert text.startswith("quick · 3 rounds")
    assert "### cifar10\n" in text
    assert "- Not run: dali (not installed)." in text
    assert text.rstrip().endswith("mmap and hdf5.**")


def test_without_records_that_ran_there_is_still_a_screen(make: MakeRecord) -> None:
    """Every reason, and no verdict."""
    lines = screen([make("dali", status="unavailable", error="not installed")])
    assert any("Not run: dali (not installed)." in line for line in lines)
