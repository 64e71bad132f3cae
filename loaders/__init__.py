"""Examples to stores to batches: ``loaders.loader(...)`` is the one way in; ``loaders.pack`` makes stores.

Names are imported at first use, so that reading a manifest needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loaders.engine import Batch
    from loaders.loading import Loader, loader
    from loaders.pack import open_store

__all__ = ["Batch", "Loader", "loader", "open_store"]

_HOMES = {"Batch": "engine", "Loader": "loading", "loader": "loading", "open_store": "pack"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(name)
    import importlib

    return getattr(importlib.import_module(f"loaders.{_HOMES[name]}"), name)
