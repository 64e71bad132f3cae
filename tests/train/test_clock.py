"""Time is where the words say it is: a fake process and a fake device are worked for seconds known beforehand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import torch

from datasets.errors import RunFailed
from train.clock import Clock, EpochTimes, time_epoch


@dataclass
class World:
    """A process and, beside it, a device that does what it is asked for in order; times in seconds."""

    now: float = 100.0
    free: float = 0.0
    syncs: list[float] = field(default_factory=list)

    def work(self, seconds: float) -> None:
        self.now += seconds

    def ask(self, seconds: float) -> None:
        self.free = max(self.free, self.now) + seconds

    def sync(self) -> None:
        self.now = max(self.now, self.free)
        self.syncs.append(self.now)

    def mark(self) -> Instant:
        return Instant(max(self.free, self.now))

    @property
    def cpu(self) -> Clock:
        return Clock(now=lambda: self.now, sync=lambda: None)

    @property
    def gpu(self) -> Clock:
        return Clock(now=lambda: self.now, sync=self.sync, mark=self.mark)

    def batches(self, *waits: float, closing: float = 0.0) -> Iterator[int]:
        for wait in waits:
            self.work(wait)
            yield 10
        self.work(closing)


@dataclass(frozen=True)
class Instant:
    """A mark of the fake device."""

    seconds: float

    def elapsed_time(self, end: Instant) -> float:
        return (end.seconds - self.seconds) * 1e3


@pytest.fixture
def world() -> World:
    """A fresh world."""
    return World()


def on_cpu(world: World, batches: Iterator[int], copy: float = 0.0, step: float = 0.0) -> EpochTimes:
    return timed(batches, world.cpu, lambda: world.work(copy), lambda: world.work(step))


def on_gpu(world: World, batches: Iterator[int], copy: float, step: float) -> EpochTimes:
    return timed(batches, world.gpu, lambda: world.ask(copy), lambda: world.ask(step))


def timed(batches: Iterator[int], clock: Clock, copy: Callable[[], None], step: Callable[[], None]) -> EpochTimes:
    def place(images: int) -> list[int]:
        copy()
        return [images]

    def run(placed: list[int]) -> int:
        step()
        return placed[0]

    return time_epoch(batches, place, run, clock)


def test_a_batch_that_is_there_already_is_not_copied(world: World) -> None:
    """One that is its own placed batch sets no mark for it: marks cost as much as a small batch."""
    marks: list[Instant] = []

    def mark() -> Instant:
        marks.append(world.mark())
        return marks[-1]

    clock = Clock(now=lambda: world.now, sync=world.sync, mark=mark)
    times = time_epoch(world.batches(1, 1), lambda batch: batch, lambda images: images, clock)
    assert times.copy == 0
    assert len(marks) == 1 + 2 * 2


def test_the_first_batch_is_there_when_the_device_has_it(world: World) -> None:
    """A loader that hands over before its gather is done has not delivered yet."""

    def batches() -> Iterator[int]:
        world.ask(3)
        yield 10

    clock = Clock(now=lambda: world.now, sync=world.sync, mark=world.mark)
    assert time_epoch(batches(), lambda batch: batch, lambda images: images, clock).first_batch == 3


def same(times: EpochTimes, total: float, wait: float, copy: float, step: float) -> bool:
    return (times.total, times.wait, times.copy, times.step) == pytest.approx((total, wait, copy, step))


def test_wait_copy_and_step_are_the_seconds_spent_on_each(world: World) -> None:
    """Three batches that take 5, 1 and 2 seconds to come, a quarter to copy and 3 to learn from."""
    times = on_cpu(world, world.batches(5, 1, 2), copy=0.25, step=3)
    assert same(times, total=17.75, wait=8, copy=0.75, step=9)
    assert times.images == 30


def test_wait_copy_and_step_sum_to_total(world: World) -> None:
    """Nothing is counted twice or left over, on either timeline."""
    for times in (on_cpu(world, world.batches(0.1, 0.7), 0.3, 0.9), on_gpu(world, world.batches(0.1, 0.7), 0.3, 0.9)):
        assert times.wait + times.copy + times.step == pytest.approx(times.total)
        assert min(times.wait, times.copy, times.step) >= 0


def test_the_span_starts_before_the_loader_does(world: World) -> None:
    """What a loader does when it is first asked, such as starting workers, is in the span and in the first batch."""

    class Slow:
        def __iter__(self) -> Iterator[int]:
            world.work(4)
            return world.batches(1)

    times = time_epoch(Slow(), lambda batch: batch, lambda batch: batch, world.cpu)
    assert times.first_batch == pytest.approx(5)
    assert same(times, total=5, wait=5, copy=0, step=0)


def test_the_span_ends_with_the_last_step(world: World) -> None:
    """What a loader does after its last batch, such as stopping workers, is not in the span."""
    assert on_cpu(world, world.batches(1, closing=50), step=2).total == pytest.approx(3)


def test_the_first_batch_alone_is_reported_apart(world: World) -> None:
    """``first_batch`` is the wait for the first batch, whatever the others took."""
    assert on_cpu(world, world.batches(5, 9), step=3).first_batch == pytest.approx(5)


def test_a_gpu_that_works_while_the_process_waits_is_not_waiting(world: World) -> None:
    """Reading hidden behind the device's own work costs nothing: only the first batch was waited for."""
    times = on_gpu(world, world.batches(1, 1, 1), copy=0.5, step=4)
    assert same(times, total=14.5, wait=1, copy=1.5, step=12)


def test_a_gpu_waits_for_what_its_work_does_not_cover(world: World) -> None:
    """A batch that takes 6 seconds behind 4.5 of work leaves the device idle for 1.5."""
    times = on_gpu(world, world.batches(1, 6, 6), copy=0.5, step=4)
    assert same(times, total=17.5, wait=4, copy=1.5, step=12)


def test_the_span_of_a_gpu_ends_when_its_last_step_does(world: World) -> None:
    """Work that was asked for and not yet done is waited for, once, and counted."""
    times = on_gpu(world, world.batches(1, 1), copy=0, step=100)
    assert times.total == pytest.approx(201)
    assert world.syncs == [100.0, pytest.approx(301)]


def test_work_from_before_the_span_is_not_in_it(world: World) -> None:
    """What the device still had to do for an earlier epoch is done before the clock starts."""
    world.ask(30)
    assert on_gpu(world, world.batches(1), copy=0, step=2).total == pytest.approx(3)


def test_no_batch_is_an_error(world: World) -> None:
    """An epoch of nothing has no time to report."""
    with pytest.raises(RunFailed, match="no batch"):
        on_cpu(world, world.batches())


def test_the_clock_of_the_cpu_is_the_process_s_own() -> None:
    """Real seconds: a sleep of 20 ms is a wait of 20 ms or a little more."""

    def sleepy() -> Iterator[int]:
        time.sleep(0.02)
        yield 1

    times = time_epoch(sleepy(), lambda batch: batch, lambda batch: batch, Clock.of(torch.device("cpu")))
    assert 0.02 <= times.wait <= times.total < 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_clock_of_a_gpu_waits_for_the_device() -> None:
    """A step that the device works on after the call returned is in the span, and is step rather than wait."""
    device = torch.device("cuda")
    matrix = torch.rand(4096, 4096, device=device)

    def step(count: int) -> int:
        for _ in range(20):
            torch.mm(matrix, matrix)
        return count

    times = time_epoch([1, 1, 1], lambda batch: batch, step, Clock.of(device))
    assert times.step > 0.9 * times.total > 0
