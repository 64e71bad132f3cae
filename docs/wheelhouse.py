"""Wheels for a machine without a network that has PyTorch already, as compute nodes of clusters do: `make wheelhouse FOR=3.12`.

Loadstone's requirements and theirs, in the versions installed here; all but torch, torchvision and what those bring.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import subprocess
import sys
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

THERE = ("torch", "torchvision")
PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")


def needs(name: str, python: str, extra: str = "") -> set[str]:
    """The direct requirements of an installed distribution, for a version of Python."""
    environment = {**default_environment(), "python_version": python, "extra": extra}
    parsed = map(Requirement, importlib.metadata.requires(name) or [])
    return {
        canonicalize_name(each.name) if not each.extras else f"{canonicalize_name(each.name)}[{','.join(each.extras)}]"
        for each in parsed
        if each.marker is None or each.marker.evaluate({key: str(value) for key, value in environment.items()})
    }


def closure(name: str, python: str, left_out: set[str]) -> set[str]:
    """All that a distribution needs, itself not included, but for what is left out."""
    found: set[str] = set()
    pending = needs(name, python)
    while pending:
        one = pending.pop()
        bare, _, extras = one.partition("[")
        if one in found or bare in left_out:
            continue
        found.add(one)
        pending |= needs(bare, python)
        for extra in filter(None, extras.rstrip("]").split(",")):
            pending |= needs(bare, python, extra)
    return {one.partition("[")[0] for one in found}


def main() -> int:
    """Download them; returns pip's exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}", help="version there")
    parser.add_argument("--machine", default="x86_64", help="processor there")
    parser.add_argument("--to", default=Path("wheelhouse"), type=Path, help="folder")
    asked = parser.parse_args()
    torch_s = {*THERE}.union(*(closure(name, asked.python, set()) for name in THERE))
    # What torch brings and Loadstone needs too is there already.
    names = sorted(closure("loadstone", asked.python, torch_s))
    pinned = [f"{name}=={importlib.metadata.version(name)}" for name in names]
    platforms = [word for each in PLATFORMS for word in ("--platform", f"{each}_{asked.machine}")]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(asked.to)]
    return subprocess.run([*command, "--python-version", asked.python, *platforms, *pinned], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
