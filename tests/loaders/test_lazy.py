"""``lazy`` keeps what it worked out, and holds nothing meanwhile."""

from __future__ import annotations

import threading

from loaders.lazy import lazy


class _Slow:
    def __init__(self, wait: threading.Event | None = None) -> None:
        self.wait, self.begun, self.times = wait, threading.Event(), 0

    @lazy
    def value(self) -> int:
        """A value."""
        self.times += 1
        self.begun.set()
        if self.wait is not None:
            self.wait.wait(10)
        return self.times


def test_a_value_is_worked_out_once() -> None:
    """Asked for again, it is what it was."""
    slow = _Slow()
    assert (slow.value, slow.value, slow.times) == (1, 1, 1)
    assert _Slow.value.__doc__ == "A value."


def test_no_lock_is_held_meanwhile() -> None:
    """While a thread works on one, another's is had: a process forked at that moment would find no lock that nobody frees."""
    held, found = _Slow(threading.Event()), []
    thread = threading.Thread(target=lambda: held.value)
    thread.start()
    assert held.begun.wait(10)
    other = threading.Thread(target=lambda: found.append(_Slow().value))
    other.start()
    other.join(5)
    assert found == [1]
    assert held.wait is not None
    held.wait.set()
    thread.join()
