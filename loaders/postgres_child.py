"""Become a program that ends when its parent does. Run as a script by ``postgres_server``, never imported by it.

A process of its own, rather than ``preexec_fn``: no Python runs between fork and exec of a process that may have
threads, and an unprivileged uid need not be able to reach this interpreter.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def become(parent: int, death_signal: int, uid: int, gid: int, program: list[str]) -> None:
    """Replace this process by ``program``, under ``uid``, sent ``death_signal`` when the thread that started it ends.

    Args:
        parent: the process that must still be there once the signal is set, else this one ends: it may have died before.
        death_signal: a signal's number.
        uid: the account; nothing is changed where it is ours.
        gid: the account's group.
        program: absolute path and arguments.
    """
    if os.geteuid() != uid:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # After the change of uid: the kernel clears the signal when credentials change (prctl(2)).
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        sys.exit("prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != parent:
        sys.exit("the process that asked for it has ended")
    os.execv(program[0], program)


if __name__ == "__main__":
    try:
        become(*(int(word) for word in sys.argv[1:5]), sys.argv[5:])  # type: ignore[call-arg, arg-type]
    except OSError as error:
        sys.exit(f"can't run {sys.argv[5]} under uid {sys.argv[3]}: {error.strerror}")
