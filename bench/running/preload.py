"""What the fork server imports, so that no run has to: the worker, and the loops that are compiled.

Imported by the fork server alone: it loads numba, which nothing else should pay for.
"""

from __future__ import annotations

import contextlib
import gc
import importlib

import bench.running.worker  # noqa: F401
from loaders.turbojpeg import turbo

turbo()
for loop in ("files", "chunks"):
    with contextlib.suppress(ImportError, OSError):  # without numba or zlib the fall-backs serve, and say so
        importlib.import_module(f"loaders.kernels.{loop}")

# A full collection in a run would walk, and so copy, all that was loaded here: 0.3 s of some epochs.
gc.freeze()
