"""Put committed results into the README and docs/method.md, between their marks, as the program made them; `make readme`."""

from __future__ import annotations

from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
PLACES = {"README.md": "results/reference/table.md", "docs/method.md": "results/calibration/calibration.md"}


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


if __name__ == "__main__":
    for page, name in PLACES.items():
        result, path = HOME / name, HOME / page
        if result.exists():
            text = lowered(result.read_text(encoding="utf-8"))
            path.write_text(with_result(path.read_text(encoding="utf-8"), name, text), encoding="utf-8")
