"""``loadstone compare``."""

from __future__ import annotations

from pathlib import Path

from bench.reporting.compare import Folder, compare, differences, words
from bench.running.progress import plain_console
from datasets.errors import UsageError


def show(a: Path, b: Path, *, anyway: bool) -> None:
    """Print the comparison.

    Raises:
        DataError: a folder holds no records. UsageError: the runs differ and ``anyway`` is not said, or share no cell.
    """
    first, second = Folder.read(a), Folder.read(b)
    compared = compare(first, second)
    if not compared:
        raise UsageError(f"{a} and {b} have no cell in common that ran in both; see their table.md")
    apart = differences(first, second)
    if apart and not anyway:
        raise UsageError(f"{a} and {b} differ in {'; '.join(apart)}; if that is what you compare, add --anyway")
    console = plain_console()
    for line in words(first, second, compared, apart):
        console.print(line)
