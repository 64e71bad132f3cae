"""Versions of the libraries that matter: those that write stores, and those of the peers."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

PEERS = ("ffcv", "litdata", "lmdb", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "pyarrow", "webdataset", "zarr")
STORED = ("loadstone", "numpy", "h5py", "psycopg", "pillow", "simplejpeg", "numba", "pylibjxl", *PEERS)
"""What a manifest names."""


def installed(libraries: Iterable[str]) -> dict[str, str]:
    """The version of each that is installed; the others are left out."""
    found = {}
    for library in libraries:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
