"""Put committed results into the README and the docs, between their marks, as the program made them; `make readme`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
PLACES = {
    "README.md": "results/reference/table.md",
    "docs/method.md": "results/calibration/calibration.md",
    "docs/speed.md": "results/speed/targets.md",
    "docs/gpu.md": "results/gpu/targets.md",
}


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


LEGEND = 3  # of the notes below the first table; what they say besides stands beside the records


def first(result: str) -> str:
    """The first table, what is continued there left out, with its legend and the verdict."""
    above = result.partition("\n## Details")[0]
    head, *panels = above.partition("\n- ")[0].split("### ")
    shown = "".join(f"### {panel}" for panel in panels if not panel.partition("\n")[0].endswith(", continued"))
    notes = [line for line in above.splitlines() if line.startswith("- ")][:LEGEND]
    (verdict,) = (line for line in above.splitlines() if line.startswith("**"))
    return f"{head}{shown.rstrip()}\n\n" + "\n".join(notes) + f"\n\n{verdict}\n"


# Ways of loading as docs/speed.md has them, by engine, fetch and workers; and a peer's own loader.
WAYS = {
    "2 threads": ("threads", "batch", "2"),
    "1 thread": ("threads", "batch", "1"),
    "in the process": ("torch", "batch", "0"),
    "2 processes": ("torch", "batch", "2"),
    "by the item": ("torch", "item", "0"),
    "its own loader": ("native", "batch", None),
}
Line = Mapping[str, str]


def speeds(lines: Sequence[Line], dataset: str, codec: str) -> str:
    """Thousand pictures a second of every backend, fastest first, by each way of loading: means over rounds."""
    table: dict[str, dict[str, float]] = {}
    for line in lines:
        own = line["dataset"].startswith(dataset) and line["codec"] == codec and line["mode"] == "load"
        if own and line["images_per_second"] and (line["limit"] == "" or line["fetch"] == "item"):
            found = line["engine"], line["fetch"], line["workers"]
            for name, (engine, fetch, workers) in WAYS.items():
                if found[:2] == (engine, fetch) and workers in (None, found[2]):
                    table.setdefault(line["backend"], {})[name] = float(line["images_per_second"]) / 1e3
    head = ["thousand pictures/s", *WAYS]
    rows = [
        [f"`{backend}`", *(_rounded(table[backend].get(way)) for way in WAYS)]
        for backend in sorted(table, key=lambda backend: -max(table[backend].values()))
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---", *["---:"] * len(WAYS)], *rows))


def _rounded(speed: float | None) -> str:
    return "" if speed is None else f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"


if __name__ == "__main__":
    for page, name in PLACES.items():
        result, path = HOME / name, HOME / page
        if result.exists():
            text = result.read_text(encoding="utf-8")
            text = first(text) if page == "README.md" else lowered(text)
            path.write_text(with_result(path.read_text(encoding="utf-8"), name, text), encoding="utf-8")
    summary, page = HOME / "results/speed/summary.csv", HOME / "docs/speed.md"
    with summary.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    text = page.read_text(encoding="utf-8")
    for name, dataset, codec in (("raw CIFAR-10", "cifar10", "raw"), ("JPEG", "tiny-imagenet", "jpeg")):
        text = with_result(text, name, speeds(lines, dataset, codec))
    page.write_text(text, encoding="utf-8")
