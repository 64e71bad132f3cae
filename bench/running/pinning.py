"""Threads of a run's process: as many as the record says, in every library that has a pool of its own."""

from __future__ import annotations

import os
import sys

import threadpoolctl
import torch

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def pin(threads: int) -> dict[str, int]:
    """Give every pool so many threads; returns how many each has then: ``torch``, ``openmp``, ``openblas``, ``opencv``, ...

    For this process, and through the environment for libraries that are loaded later here and in children.
    """
    os.environ.update(dict.fromkeys(_VARIABLES, str(threads)))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    threadpoolctl.threadpool_limits(threads)
    found = {"torch": torch.get_num_threads()}
    for pool in threadpoolctl.threadpool_info():
        name = str(pool["user_api"] if pool["user_api"] == "openmp" else pool["internal_api"])
        found[name] = max(int(pool["num_threads"]), found.get(name, 0))
    if (opencv := sys.modules.get("cv2")) is not None:
        opencv.setNumThreads(threads)
        found["opencv"] = int(opencv.getNumThreads())
    return found
