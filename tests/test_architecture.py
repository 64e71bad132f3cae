"""Imports go one way, and what the command line reads first needs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("datasets", "loaders", "train", "bench")
"""Each may import itself and those before it."""
MODULES = [file for package in PACKAGES for file in sorted((REPOSITORY / package).rglob("*.py"))]
FORBIDDEN = {package: set(PACKAGES[place + 1 :]) | {"tests"} for place, package in enumerate(PACKAGES)}


def imported(source: str, package: str) -> Iterator[str]:
    """The top-level names that a module imports anywhere, in functions and for type checking too, or by name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield package if node.level else (node.module or "").partition(".")[0]
        elif (
            isinstance(node, ast.Call)
            and node.args
            and getattr(node.func, "attr", getattr(node.func, "id", ""))
            in (
                "import_module",
                "__import__",
            )
        ):
            name = node.args[0]
            if isinstance(name, ast.Constant):
                yield str(name.value).partition(".")[0]


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_imports_go_one_way(file: Path) -> None:
    """datasets -> loaders -> train -> bench: a module imports its own package and earlier ones."""  # noqa: D403
    package = file.relative_to(REPOSITORY).parts[0]
    wrong = set(imported(file.read_text(encoding="utf-8"), package)) & FORBIDDEN[package]
    assert not wrong, f"{file.relative_to(REPOSITORY)} imports {', '.join(sorted(wrong))}"


def test_every_way_of_importing_is_seen() -> None:
    """The rule can't be got round by importing in a function, under another name, for types or by a string."""
    source = """
import bench.cli as b
from train import loop
from . import order
def f():
    if TYPE_CHECKING:
        from tests.loaders import contract
    importlib.import_module("datasets.registry"); __import__("json")
"""
    assert set(imported(source, "loaders")) == {"bench", "train", "loaders", "tests", "datasets", "json"}


@pytest.mark.parametrize("module", ["bench.cli", "datasets.registry", "loaders.manifest", "loaders.registry", "train.protocol"])
def test_no_torch_is_imported(module: str) -> None:
    """Help, names and manifests are read without torch: importing it takes seconds."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
