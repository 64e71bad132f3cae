"""What every test stands on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from multiprocessing import util
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A temporary folder for each process of tests, its path short: what a test kills and leaves is seen by none beside it."""
    tmp_path_factory.getbasetemp()  # pytest's own stays where it is
    folder = Path(tempfile.mkdtemp(prefix="loadstone-tests-"))
    folder.chmod(0o755)  # the account of the embedded server goes through it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder
    # When the process ends, and after what multiprocessing and a run keep in it was removed by themselves, at -100 and -200.
    util.Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=-300)
