"""A store of many records is opened and read for next to nothing; see docs/scale.md for a hundred million."""

from __future__ import annotations

import json
from pathlib import Path

from bench import scale
from loaders.order import WHOLE

RECORDS = 3 * WHOLE
MEBIBYTE = 2**20


def test_a_huge_store_is_not_read_to_be_opened(tmp_path: Path) -> None:
    """Six million records, 19 GB: neither pictures, labels nor order are held whole; the sparse files take no room."""
    root = scale.sparse_store(tmp_path / "huge", RECORDS)
    assert sum(file.stat().st_size for file in root.iterdir()) > 19e9
    assert sum(file.stat().st_blocks * 512 for file in root.iterdir()) < MEBIBYTE
    found = scale.apart(scale.opening, scale.sparse_store(tmp_path / "small", 1000), root)
    # An order made whole would be 48 MiB, the labels as much again; the pages of the pictures read are 24 MiB.
    assert 0 <= found["opened_bytes"] < 8 * MEBIBYTE
    assert found["shuffled_bytes"] < 50 * MEBIBYTE


def test_the_committed_table_is_that_of_its_record() -> None:
    """docs/scale.md is what the program makes of docs/scale.json, and keeps the targets."""
    docs = Path(__file__).resolve().parents[2] / "docs"
    found = json.loads((docs / "scale.json").read_text(encoding="utf-8"))
    assert (docs / "scale.md").read_text(encoding="utf-8") == scale.table(found)
    assert found["records"] == 100_000_000
    assert found["huge"]["shuffled_bytes"] < 50 * MEBIBYTE
    assert all(found[f"{engine}_pss_per_further_worker_bytes"] < 30 * MEBIBYTE for engine in ("torch", "threads"))
