"""Loops over a batch that numba compiles and that run without the GIL; import them only where numba is there.

A Python call for every picture costs a quarter of the speed in two threads, and everything in sixteen. Addresses are
passed as whole numbers: callers check that what they point to is theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(signature: str) -> Callable[[Loop], Loop]:
    """Compile a function for one signature; kept on the disk for the next process, where a folder can be written to."""

    def decorate(function: Loop) -> Loop:
        found: Any
        try:
            found = numba.njit(signature, nogil=True, cache=True)(function)
        except RuntimeError:  # neither this folder nor the user's cache may be written to
            found = numba.njit(signature, nogil=True)(function)
        return cast(Loop, found)

    return decorate


def external(name: str, result: str, *arguments: str) -> Any:
    """A function of C, called by its name and numba's names of its types."""
    kinds: Any = numba.types
    return kinds.ExternalFunction(name, getattr(kinds, result)(*(getattr(kinds, argument) for argument in arguments)))
