r"""Tables for print: LaTeX with ``booktabs``, one ``table`` environment a group."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from bench.reporting.table import Column, Line, Table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "·": r"\textperiodcentered{}",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{HORIZONTAL ELLIPSIS}": r"\dots{}",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
}


def to_latex(found: Sequence[Table]) -> str:
    """Every table, with its caption, label and notes."""
    return "% Needs \\usepackage{booktabs,graphicx}.\n" + "\n".join(map(_latex, found))


def escape(text: str) -> str:
    """Text as LaTeX sets it; a letter that pdflatex has no glyph for becomes a question mark."""
    return "".join(_SPECIAL.get(letter) or _plain(letter) for letter in " ".join(text.split()))


def _plain(letter: str) -> str:
    """ASCII, and the accented letters that every font encoding composes."""
    base = unicodedata.normalize("NFD", letter)[0]
    return letter if letter.isascii() or (letter <= "\N{LATIN SMALL LETTER Y WITH DIAERESIS}" and base.isascii()) else "?"


def _latex(table: Table) -> str:
    layout = "".join("r" if column.right else "l" for column in table.columns)
    body = [_row(line, len(table.columns)) for line in table.lines]
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\caption[{{{escape(table.title)}}}]{{{escape(f'{table.title}. ' + '. '.join(table.caption))}.}}",
            rf"\label{{tab:{table.name}}}",
            # No wider than the text, and no larger than it comes.
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{",
            rf"\begin{{tabular}}{{@{{}}{layout}@{{}}}}",
            r"\toprule",
            " & ".join(_title(column) for column in table.columns) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            "",
            r"\smallskip\begin{minipage}{\linewidth}\raggedright",
            *(escape(line) + r"\par" for line in table.notes),
            r"\end{minipage}",
            r"\end{table}",
            "",
        ]
    )


def _title(column: Column) -> str:
    if len(column.title) == 1:
        return escape(column.title[0])
    side = "r" if column.right else "l"
    return rf"\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}" + r"\\".join(map(escape, column.title)) + r"\end{tabular}"


def _row(line: Line, columns: int) -> str:
    cells = [escape(cell) for cell in line.cells]
    if line.reason:
        span = columns - len(cells)
        cells.append(rf"\multicolumn{{{span}}}{{@{{}}p{{0.7\linewidth}}@{{}}}}{{\raggedright {escape(line.reason)}}}")
    return " & ".join(cells) + r" \\"
