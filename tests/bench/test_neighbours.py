"""Another package called ``datasets`` in the way of Loadstone's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.neighbours import PACKAGES, check_packages


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("kind", ["package", "module"])
def test_another_package_of_the_same_name_gives_one_clear_line(
    tmp_path: Path, environment: dict[str, str], name: str, kind: str
) -> None:
    """It says which, where it is and what to do, and no traceback hides it."""
    (tmp_path / name).mkdir()
    path = tmp_path / name / "__init__.py" if kind == "package" else tmp_path / f"{name}.py"
    path.write_text("VERSION = 4\n")
    if kind == "module":
        (tmp_path / name).rmdir()
    done = subprocess.run(
        [sys.executable, "-m", "bench.cli", "list", "models"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"loadstone: Python finds another package called {name!r} ({tmp_path.resolve()}")
    assert "an environment of its own" in line


def test_our_own_packages_pass() -> None:
    """Nothing is said where nothing is wrong."""
    check_packages()
