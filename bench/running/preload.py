"""What the fork server imports, so that no run has to: the worker, and the loops that are compiled.

Imported by the fork server alone: it loads numba, which nothing else should pay for.
"""

from __future__ import annotations

import contextlib

import bench.running.worker  # noqa: F401
from loaders.turbojpeg import turbo

turbo()
with contextlib.suppress(ImportError, OSError):  # without numba or zlib the fall-backs serve, and say so
    pass
