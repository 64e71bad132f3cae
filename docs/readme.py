"""Put committed results into the README and docs/method.md, between their marks, as the program made them; `make readme`."""

from __future__ import annotations

from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
PLACES = {"README.md": "results/reference/table.md", "docs/method.md": "results/calibration/calibration.md"}
FIRST_TABLES = 2  # of those in the README: one network on both data sets; the others stand beside the records


def with_result(page: str, name: str, result: str) -> str:
    """The page with ``result`` between the marks of the file ``name``."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{result.strip()}\n\n{end}{after}"


def lowered(result: str) -> str:
    """Without its title, and its sections as those of a section."""
    lines = result.splitlines()
    body = lines[1:] if lines[0].startswith("# ") else lines
    return "\n".join("#" + line if line.startswith("## ") else line for line in body)


def first(result: str) -> str:
    """The first tables, and where the others are."""
    head, *tables = result.split("### ")
    shown = head + "".join(f"### {table}" for table in tables[:FIRST_TABLES])
    left = [table.partition("\n")[0] for table in tables[FIRST_TABLES:]]
    return shown + (f"More, in [{PLACES['README.md']}]({PLACES['README.md']}): {', '.join(left)}.\n" if left else "")


if __name__ == "__main__":
    for page, name in PLACES.items():
        result, path = HOME / name, HOME / page
        if result.exists():
            text = lowered(result.read_text(encoding="utf-8"))
            text = first(text) if page == "README.md" else text
            path.write_text(with_result(path.read_text(encoding="utf-8"), name, text), encoding="utf-8")
