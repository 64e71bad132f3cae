"""How fast raw CIFAR-10 is packed, beside FFCV's own writer: printed as the table of docs/speed.md. It needs ffcv.

    .venv/bin/python docs/packing.py DATA_DIR FOLDER

DATA_DIR holds the complete CIFAR-10. Stores are written into FOLDER, which must not be there yet, and removed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter

from datasets.registry import open_source
from datasets.source import Source
from loaders.pack import pack

ROUNDS = 5


class Pictures:
    """The training pictures in RAM, by their number, as FFCV's writer takes them."""

    def __init__(self, source: Source) -> None:
        examples = list(source.examples("train"))
        self.held = [(np.asarray(example.picture), example.label) for example in examples]

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.uint8], int]:
        return self.held[index]


def by_ffcv(pictures: Pictures, file: Path) -> None:
    """As FFCV's documentation shows, by as many workers as there are cores; flushed, as ours are."""
    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    DatasetWriter(str(file), fields, num_workers=os.cpu_count()).from_indexed_dataset(pictures)
    with file.open("rb") as written:
        os.fsync(written.fileno())


def measured(source: Source, folder: Path) -> dict[str, list[float]]:
    """Pictures a second of each way, a figure a round."""
    pictures, total = Pictures(source), sum(source.info.counts.values())
    ways: dict[str, tuple[int, Callable[[Path], object]]] = {
        "mmap": (total, lambda place: pack(source, "mmap", place)),
        "ffcv, by `loadstone pack`": (total, lambda place: pack(source, "ffcv", place)),
        "FFCV's own writer, `train` alone": (len(pictures), lambda place: by_ffcv(pictures, place / "theirs.beton")),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        folder.mkdir(parents=True)
        for name, (count, write) in ways.items():
            began = time.perf_counter()
            write(folder)
            found[name].append(count / (time.perf_counter() - began))
        shutil.rmtree(folder)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    found = measured(open_source("cifar10", asked.data), asked.folder)
    lines = ["| | thousand pictures/s | mmap is so many times as fast |", "|---|---|---|"]
    for name, rates in found.items():
        ratio = statistics.median(mmap / rate for mmap, rate in zip(found["mmap"], rates, strict=True))
        lines.append(f"| {name} | {statistics.median(rates) / 1e3:.1f} | {ratio:.2g} |")
    sys.stdout.write("\n".join([*lines, ""]))
