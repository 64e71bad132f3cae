"""What the fork server imports, so that no run has to: the worker, and the compiled loops that decode and read files.

Imported by the fork server alone: it loads numba, which nothing else should pay for.
"""

from __future__ import annotations

import contextlib

import bench.running.worker  # noqa: F401
from loaders.turbojpeg import turbo

turbo()
with contextlib.suppress(ImportError):  # without numba the fall-backs serve, and say so
    import loaders.kernels.files  # noqa: F401
