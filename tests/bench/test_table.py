"""Rows in words: figures, captions, verdicts, Markdown, LaTeX and the terminal."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from bench import numbers
from bench.record import Epoch, Record
from bench.reporting import latex, table, wording
from bench.reporting.summary import summary
from bench.reporting.table import Table
from bench.reporting.wording import Setting
from bench.stats import Interval

MakeRecord = Callable[..., Record]
PLACE = Setting("quick", "AMD EPYC, 2 cores", "2.14.1", ("PostgreSQL runs as uid 1000",))
REASON = "the run's process was killed by signal 9 | out of memory_? 100% & more #1 ~ of {it} in $HOME/x^2 " * 3


def rounds(make: MakeRecord, backend: str, means: list[float], **fields: object) -> list[Record]:
    return [make(backend, (9.0, mean - 0.02, mean + 0.02), round=number, **fields) for number, mean in enumerate(means)]


@pytest.fixture
def records(make: MakeRecord) -> list[Record]:
    """Two rows tie, one is slower, one unavailable, one fails at length; compute is 0.99 of mmap."""
    return [
        *rounds(make, "mmap", [1.00, 1.01, 1.02], wait=0.02),
        *rounds(make, "hdf5", [1.01, 1.01, 1.02], wait=0.03),
        *rounds(make, "filesystem", [1.30, 1.31, 1.32], wait=0.3),
        *rounds(make, "memory", [0.990, 0.9999, 1.0098], mode="compute"),
        *rounds(make, "mmap", [0.5, 0.5, 0.5], mode="load"),
        make("dali", status="unavailable", error="no CUDA device here (loadstone list backends)"),
        make("lmdb", status="failed", error=REASON),
    ]


def tables(records: list[Record]) -> list[Table]:
    return table.tables(summary(records), PLACE)


def terminal(found: list[Table]) -> str:
    """What stands in a log file, where rich takes 80 columns for granted."""
    file = io.StringIO()
    Console(file=file).print(table.to_terminal(found), soft_wrap=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Interval(0.6134, 0.5984, 0.6284, 3), "0.61 [0.60, 0.63]"),
        (Interval(12.3456, 12.3, 12.39, 3), "12.35 [12.30, 12.39]"),
        (Interval(123.4, 100.0, 146.8, 3), "123 [100, 147]"),
        (Interval(3.14159, 3.1415, 3.1416, 3), "3.1416 [3.1415, 3.1416]"),
        (Interval(0.0123, 0.0, 0.0246, 3), "0.012 [0.000, 0.025]"),
        (Interval(1.2345, None, None, 1), "1.23"),
        (Interval(1234.5, None, None, 1), "1234"),
        (None, "-"),
    ],
)
def test_the_interval_decides_the_digits(found: Interval | None, text: str) -> None:
    """A figure shows as many digits as its interval carries, and three without one."""
    assert numbers.interval(found) == text


def test_shares_rates_and_sizes_are_short() -> None:
    """As the last screen shows them."""
    assert [numbers.rate(value) for value in (2.6e6, 210e3, 35.4e3, 999_700, 940.0, 4.26, None)] == [
        "2.6 M", "210 k", "35 k", "1.0 M", "940", "4.3", "-",
    ]  # fmt: skip
    assert [numbers.percent(value) for value in (0.0, 0.004, 0.09, 0.096, -0.0001)] == [
        "0.0 %",
        "0.4 %",
        "9.0 %",
        "10 %",
        "0.0 %",
    ]
    assert numbers.percent_interval(Interval(0.004, -0.002, 0.010, 3)) == "0.4 % [-0.2, 1.0]"
    assert [numbers.mebibytes(size) for size in (147 * 2**20, 3 * 2**19, 0, 9, None)] == [
        "147 MiB", "1.5 MiB", "0.0 MiB", "< 0.1 MiB", "-",
    ]  # fmt: skip


def test_a_row_holds_its_figures(records: list[Record]) -> None:
    """The terminal's line of hdf5, by hand: 0.03 s of waiting over 512 images, 2.9 % of an epoch, disk; and of mmap."""
    text = terminal(tables(records))
    hdf5 = next(line for line in text.splitlines() if line.startswith(" hdf5"))
    assert re.split(r"\s{2,}", hdf5.strip()) == [
        "hdf5", "58.6 [58.6, 58.6]", "2.9 %", "1.01 [1.00, 1.03]", "9.00", "39.0 %", "0.370", "-", "147 MiB",
    ]  # fmt: skip
    mmap = next(line for line in text.splitlines() if line.startswith(" mmap"))
    assert re.split(r"\s{2,}", mmap.strip())[1] == "39.1 [39.1, 39.1]"
    assert re.split(r"\s{2,}", mmap.strip())[-2] == "1.0 k"


def test_the_caption_says_what_was_timed_and_where(records: list[Record]) -> None:
    """Rounds, cache, machine, versions, what the clock covered, images, limit, and what all rows share."""
    found = tables(records)[0]
    caption = "\n".join((found.title, *found.caption))
    for part in (
        "cifar10 · resnet8",
        "quick · protocol quick · 3 rounds · warm page cache · AMD EPYC, 2 cores · 2 threads · torch 2.14.1",
        "epoch: 512 training images (limit 512), the first epoch not counted",
        "evaluation, on 10,000 validation images, not counted",
        "[95 % interval over processes]",
        "all rows: own codec, torch, batch, 0 workers",
        "compute alone, its batches in place: 1.00 [0.98, 1.02] s",
    ):
        assert part in caption


def test_columns_that_differ_are_shown_and_the_others_named_once(make: MakeRecord) -> None:
    """Workers differ here, so they are a column; the engine does not."""
    found = tables([make("mmap"), make("mmap", workers=2), make("hdf5:copied", workers=2)])[0]
    titles = [" ".join(column.title) for column in found.columns]
    assert titles[:3] == ["backend", "workers", "loading, µs an image"]
    assert sorted(line.cells[:2] for line in found.lines) == [("hdf5:copied", "2"), ("mmap", "0"), ("mmap", "2")]
    assert found.caption[-1].startswith("all rows: own codec, torch, batch; the model alone: 1758 µs an image")


def test_reasons_are_never_cut(records: list[Record]) -> None:
    """Every word of a long reason stands in every form, and in the terminal within its width."""
    found = tables(records)
    words = REASON.split()
    text = terminal(found)
    assert " ".join(words) in " ".join(text.split())
    assert "dali        not run: no CUDA device here (loadstone list backends)" in text
    assert max(map(len, text.splitlines())) <= 130
    assert " ".join(words).replace("|", "\\|") in table.to_markdown(found)
    assert latex.escape(REASON.strip()) in latex.to_latex(found)


def test_lost_rounds_and_load_cells_that_did_not_run_are_noted(make: MakeRecord) -> None:
    """A row that lost a round says how many it has; a missing figure of another mode has its reason."""
    records = [make(), make(round=1), make(round=2, status="failed", error="server gone")]
    records.append(make(mode="load", status="failed", error="disk full"))
    found = tables(records)[0]
    assert "n=2" in found.lines[0].cells[1]
    assert "mmap: 2 of 3 rounds; lost: server gone" in found.notes
    assert "load only, mmap: not run: failed: disk full" in found.notes
    assert PLACE.notes[0] in found.notes


def test_doubts_are_in_words(make: MakeRecord) -> None:
    """Spread, short times and unequal work are named with their rows."""
    records = [make(seconds=(1.0, 1.0)), make(seconds=(1.0, 2.0), round=1), make("hdf5", pixel_sha256="x"), make("lmdb")]
    records.append(make("dali", (1.0, 0.05), wait=0.0))
    notes = "\n".join(tables(records)[0].notes)
    assert "Unstable, runs spread over 10 % of their mean: mmap (47 %)." in notes
    assert "Short, a timed unit under 100 ms: dali (50 ms)." in notes
    assert "Unequal work: hdf5 had other pixels than dali, lmdb, mmap (rounds that differ: 1)." in notes


def test_an_experiment_of_load_cells_has_a_table_a_data_set(make: MakeRecord) -> None:
    """Sorted by images a second, with the ratio to ``memory`` and the path that served."""
    records = [
        *rounds(make, "hdf5", [0.50, 0.51, 0.50], mode="load", path_taken="direct chunk"),
        *rounds(make, "memory", [0.25, 0.255, 0.25], mode="load"),
        *rounds(make, "hdf5", [0.8, 0.8], mode="load", dataset="tiny-imagenet"),
    ]
    first, second = tables(records)
    assert (first.title, second.title) == ("cifar10 · loading only", "tiny-imagenet · loading only")
    titles = [" ".join(column.title) for column in first.columns]
    assert titles == ["backend", "pass s", "first pass s", "images/s", "time over memory", "disk", "path taken"]
    assert [line.cells[0] for line in first.lines] == ["memory", "hdf5"]
    assert first.lines[1].cells[3:5] == ("1.0 k", "2.00 [2.00, 2.00]")
    assert first.lines[1].cells[-1] == "direct chunk"
    assert first.caption[1].startswith("pass: 512 training images")


def test_load_cells_that_a_training_table_shows_have_no_table_of_their_own(records: list[Record], make: MakeRecord) -> None:
    """Their figure is a column there; one that no row shows gets a table."""
    assert len(tables(records)) == 1
    assert len(tables([*records, make("postgres", mode="load")])) == 2


def test_markdown_is_a_table_for_github_and_for_the_eye(records: list[Record]) -> None:
    """Every line of the table has the same number of cells, and all but those with a reason the same width."""
    lines = [line for line in table.to_markdown(tables(records)).splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line) for line in lines]
    assert len({len(line) for line in cells}) == 1
    assert len({len(line) for line in lines if "not run" not in line}) == 1
    assert "-:" in lines[1]


def test_latex_has_nothing_that_stops_a_compiler(records: list[Record]) -> None:
    """Environments and braces are balanced, each line has the columns its table declares, specials are escaped."""
    text = latex.to_latex(tables(records))
    stack: list[str] = []
    for verb, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if verb == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"(?<!\\)[#$_^~]", text)
    assert not re.search(r"(?<!\\)%(?! Needs)", text)
    layout = re.search(r"tabular\}\{@\{\}([lr]+)@\{\}\}\n\\toprule", text)
    assert layout is not None
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    for line in body:
        spans = sum(int(count) - 1 for count in re.findall(r"\\multicolumn\{(\d+)\}", line))
        assert len(re.findall(r"(?<!\\)&", line)) + 1 + spans == len(layout[1])
        assert line.endswith(r" \\")
    assert r"\label{tab:cifar10-resnet8-quick-512}" in text


def test_latex_escapes_every_special_letter() -> None:
    """Specials become commands; a letter without a glyph in every font becomes a question mark."""
    assert latex.escape(r"50 % & a_b {c} $d #e ~f ^g \h é · ł 網") == (
        r"50 \% \& a\_b \{c\} \$d \#e \textasciitilde{}f \textasciicircum{}g \textbackslash{}h é \textperiodcentered{} ? ?"
    )


def test_settings_are_read_with_tolerance() -> None:
    """Missing keys and values of another kind are left out."""
    assert wording.setting({}) == Setting()
    assert wording.setting({"machine": None, "torch": "2.14", "notes": "no list"}) == Setting(torch="2.14")


def test_without_an_environment_captions_have_no_gaps(make: MakeRecord) -> None:
    """Unknown parts leave no separators behind."""
    found = table.tables(summary([make()]), Setting())[0]
    assert found.caption[0] == "protocol quick · 1 round · warm page cache · 2 threads"


def test_what_is_declared_is_below_the_table(make: MakeRecord) -> None:
    """A feed of another order has its distance in a column, its reasons and its figures in a note."""
    quality = {"complete": True, "distance": 0.41, "tolerance": 0.02, "class_mix": 1.83}
    feed = {"differences": {"order": "shards are shuffled"}, "order_quality": quality, "order_sha256": "own"}
    records = [make("mmap", (1.0, 1.0 + number / 100), mode="load", round=number) for number in range(3)]
    records += [make("webdataset", (0.5, 0.5), mode="load", engine="native", round=number, **feed) for number in range(3)]
    (table,) = tables(records)
    place = [" ".join(column.title) for column in table.columns].index("other order")
    assert {line.cells[0]: line.cells[place] for line in table.lines} == {"webdataset": "0.41", "mmap": "-"}
    notes = " ".join(table.notes)
    assert "Declared by webdataset: another order: shards are shuffled." in notes
    assert "0.410 from a uniform shuffle, over the 0.020 of chance; the classes of a batch are 1.83 times as uneven" in notes
    assert "Unequal work" not in notes


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles_and_fits_the_page(records: list[Record], tmp_path: Path) -> None:
    """A document with nothing but what the first line asks for takes the tables, and none runs over the margin."""
    (tmp_path / "table.tex").write_text(latex.to_latex(tables(records)), encoding="utf-8")
    asked = r"\documentclass[a4paper]{article}\usepackage{booktabs,graphicx}\begin{document}\input{table.tex}\end{document}"
    (tmp_path / "document.tex").write_text(asked)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert told.returncode == 0, told.stdout
    assert "Overfull \\hbox" not in told.stdout


def test_a_slowed_step_is_named_as_such(make: MakeRecord) -> None:
    """Steps of 1.1 s beside two workers where the model alone takes 1 s: loading and model share the machine."""
    records = rounds(make, "mmap", [1.15, 1.16, 1.17], wait=0.05, workers=2)
    records += rounds(make, "memory", [1.0, 1.01, 1.02], mode="compute", wait=0.0)
    found = tables(records)[0]
    assert "Slowed step: beside loading the model itself takes longer than alone: mmap (9.9 % [9.7, 10.1])." in found.notes
    calm = rounds(make, "mmap", [1.05, 1.06, 1.07], wait=0.05) + records[3:]
    assert not any("Slowed" in note for note in tables(calm)[0].notes)


def test_too_few_rounds_say_how_many_a_new_experiment_needs(make: MakeRecord) -> None:
    """Ratios that spread by some per cent tell no 5 %; ratios that hardly spread need no more rounds."""
    wide = rounds(make, "mmap", [1.0, 1.0, 1.0]) + rounds(make, "hdf5", [0.97, 1.01, 1.05])
    (note,) = (note for note in tables(wide)[0].notes if note.startswith("Too few rounds"))
    assert re.search(r"rounds that a new experiment would need: hdf5 about \d+ \(power 90 %\)\.$", note)
    narrow = rounds(make, "mmap", [1.0, 1.01, 1.02]) + rounds(make, "hdf5", [1.0001, 1.01, 1.0201])
    assert not any(note.startswith("Too few rounds") for note in tables(narrow)[0].notes)


def cold(make: MakeRecord, backend: str, total: float, **fields: object) -> Record:
    epochs = tuple(
        Epoch(total=total, wait=total, copy_=0, step=0, images=512, first_batch=total, bytes_read=150_000_000, resident=0.004)
        for _ in range(3)
    )
    return make(backend, mode="load", cache="cold", **{"epochs": epochs} | fields)


def test_cold_and_warm_rows_stand_in_tables_of_their_own(make: MakeRecord) -> None:
    """A cold one says how much was read, and how much was there before."""
    rows = [cold(make, "mmap", 0.5, round=number) for number in range(3)]
    rows += [cold(make, "hdf5", 1.0, round=number) for number in range(3)]
    dropped, warm = tables([*rounds(make, "mmap", [0.1, 0.1, 0.1], mode="load"), *rows])
    assert (warm.title, dropped.title) == ("cifar10 · loading only", "cifar10 · loading only · guest-cold")
    assert "warm page cache" in warm.caption[0]
    assert "guest-cold page cache" in dropped.caption[0]
    titles = [" ".join(column.title) for column in dropped.columns]
    assert dropped.lines[0].cells[titles.index("read, MB/s")] == "300"
    assert dropped.lines[0].cells[titles.index("in memory before")] == "0.4 %"
    assert not any("MB/s" in " ".join(column.title) for column in warm.columns)
    assert warm.name != dropped.name


def test_what_was_not_cold_is_named(make: MakeRecord) -> None:
    """It stays in the table, and is named below it with its reason."""
    rows = [cold(make, "mmap", 1.0, round=number) for number in range(3)]
    rows += [cold(make, "memory_like", 0.1, round=number, not_cold="tmpfs keeps its files in memory") for number in range(3)]
    (found,) = tables(rows)
    assert "memory_like was not cold: tmpfs keeps its files in memory." in found.notes


def test_a_row_of_disturbed_runs_is_named(make: MakeRecord) -> None:
    """A calm attempt counts and says nothing; where all attempts of a round were disturbed, the last one counts."""
    first = [make("mmap", round=0, disturbed=True), make("mmap", (9.0, 3.0, 3.0), round=0, attempt=1)]
    second = [
        make("mmap", (9.0, total, total), round=1, attempt=place, disturbed=True) for place, total in enumerate((7.0, 5.0))
    ]
    (row,) = summary([*first, *second])
    assert row.epoch is not None
    assert row.epoch.mean == 4.0
    (found,) = tables([*first, *second])
    assert "Disturbed, runs beside which a fixed piece of work was slow each time: mmap (1 of 2)." in found.notes


def test_limits_have_a_table_of_their_own(make: MakeRecord, records: list[Record]) -> None:
    """What the machine could do at best stands last, is called what it is, and no advice is drawn from it."""
    limits = [
        *rounds(make, "copy", [0.1, 0.1, 0.1], mode="limit", model=None),
        *rounds(make, "gather", [0.2, 0.2, 0.2], mode="limit", model=None),
    ]
    *others, found = tables([*records, *limits])
    assert others == tables(records)
    assert found.title == "cifar10 · limits of the machine"
    assert [line.cells[0] for line in found.lines] == ["copy", "gather"]
