"""Put the committed run's tables into the README, between its marks, as the program made them; `make readme` runs this."""

from __future__ import annotations

from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results/reference/table.md -->\n", "<!-- end of results/reference/table.md -->\n"


def with_table(readme: str, table: str) -> str:
    """The README with ``table`` between its marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table.strip()}\n\n{END}{after}"


if __name__ == "__main__":
    table = (HOME / "results" / "reference" / "table.md").read_text(encoding="utf-8")
    readme = HOME / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), table), encoding="utf-8")
