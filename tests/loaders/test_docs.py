"""docs/adding-a-backend.md holds: its code runs as it stands, and its backend passes the contract suite."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import loaders.backends
from datasets.errors import SampleCorrupt, StoreCorrupt
from loaders.pack import pack
from loaders.registry import BACKENDS, Entry, availability
from tests.loaders.contract import Elsewhere, Subject, failures
from tests.loaders.test_contract import KINDS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "adding-a-backend.md"
MODULE, LINE, TRIAL = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def _added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The document's backend, as if its file and its line had been added."""
    (tmp_path / "zip.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.setattr(loaders.backends, "__path__", [*loaders.backends.__path__, str(tmp_path)])
    entries: dict[str, Entry] = eval("{" + LINE + "}", {"Entry": Entry})
    assert list(entries) == ["zip"]
    monkeypatch.setitem(BACKENDS, "zip", entries["zip"])
    yield
    sys.modules.pop("loaders.backends.zip", None)


@pytest.mark.usefixtures("_added")
def test_the_trial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page says to try works after what it says to do."""
    monkeypatch.chdir(tmp_path)
    assert availability("zip").ok
    exec(compile(TRIAL, str(DOCUMENT), "exec"), {})
    assert list((tmp_path / "stores").rglob("train.zip"))


@pytest.mark.usefixtures("_added")
@pytest.mark.parametrize("kind", KINDS)
def test_its_backend_passes_the_contract(kind: str, tmp_path: Path, elsewhere: Elsewhere) -> None:
    """The page's backend keeps every promise, under every codec."""
    store = pack(KINDS[kind].source, "zip", tmp_path / "stores", codec=KINDS[kind].codec)
    assert failures(Subject(store, KINDS[kind], elsewhere)) == {}


@pytest.mark.usefixtures("_added")
def test_its_errors_are_the_project_s(tmp_path: Path) -> None:
    """A damaged archive of the page's backend is one of Loadstone's errors."""
    store = pack(KINDS["raw"].source, "zip", tmp_path / "stores")
    file = store.root / "train.zip"
    data = file.read_bytes()
    place = data.index(KINDS["raw"].payloads["train"][4])
    file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    reader = store.reader("train")
    with pytest.raises(SampleCorrupt, match="sample 4 of train"):
        reader.payloads(np.array([4]))
    reader.close()
    file.write_bytes(data[:100])
    with pytest.raises(StoreCorrupt, match=r"train\.zip can't be read"):
        reader.payloads(np.array([4]))


@pytest.mark.parametrize(
    "words", re.findall(r"`((?:tests|loaders|datasets)/[\w/]+\.py)`", DOCUMENT.read_text(encoding="utf-8"))
)
def test_files_that_it_names_are_there(words: str) -> None:
    """No file that the page sends a reader to has moved; the one that it makes is not there yet."""
    assert (DOCUMENT.parents[1] / words).exists() != (words == "loaders/backends/zip.py")
