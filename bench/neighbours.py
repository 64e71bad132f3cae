"""The start-up check that Loadstone's own packages are the ones that Python finds."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

PACKAGES = ("datasets", "loaders", "train")


def check_packages() -> None:
    """End with one clear line where another package of the same name stands in the way.

    ``datasets`` is also the name of a well-known package; Loadstone is an application with an environment of its own.
    """
    home = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        found = importlib.util.find_spec(name)
        where = next((Path(place).resolve() for place in _places(found)), None)
        if where is None or where.parent != home:
            sys.exit(
                f"loadstone: Python finds another package called {name!r} ({where}) in place of Loadstone's own; "
                "install Loadstone into an environment of its own, as `make bench` does"
            )


def _places(found: ModuleSpec | None) -> Sequence[str]:
    """The folders of a package; a folder of another kind can pass for one too."""
    return list(found.submodule_search_locations or ()) or [found.origin or ""] if found else []
