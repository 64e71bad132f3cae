"""Targets and what was measured, in words."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from bench import numbers
from bench.reporting.targets import Finding
from bench.reporting.wording import Setting

HEAD = ("target", "bound", "median", "mean [95 % interval]", "rounds", "verdict")
_STYLE = {True: "", False: "bold red", None: "yellow"}


def to_terminal(found: Sequence[Finding]) -> Table:
    """A line a target; what fell short stands out."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in HEAD:
        table.add_column(title, overflow="fold")
    for finding in found:
        table.add_row(*_cells(finding), style=_STYLE[finding.met])
    return table


def to_markdown(found: Sequence[Finding], place: Setting) -> str:
    """The same as a Markdown table, with what it was measured on."""
    about = " · ".join(
        part for part in (place.experiment, place.machine, f"torch {place.torch}" if place.torch else "") if part
    )
    lines = [
        f"### Targets{': ' if about else ''}{about}",
        "",
        "Ratios are of cells of one run, paired by round; the median is held against the bound.",
    ]
    lines += ["", f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in _cells(finding))} |" for finding in found]
    return "\n".join(lines) + "\n"


def _cells(finding: Finding) -> tuple[str, ...]:
    target, dash = finding.target, numbers.ABSENT
    if finding.median is None:
        return (target.name, target.bound, dash, dash, "0", f"not measured: {finding.reason}")
    compared = " / ".join(cell.label for cell in (finding.cell, finding.over) if cell)
    verdict = f"{'pass' if finding.met else 'short'}: {compared}"
    return (
        target.name,
        target.bound,
        f"{finding.median:,.0f}" if finding.median >= 1000 else f"{finding.median:.3g}",
        numbers.interval(finding.interval),
        str(finding.rounds),
        verdict,
    )
