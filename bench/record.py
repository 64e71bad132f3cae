"""What one run leaves: a ``Record``, one line of ``runs.jsonl``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

import pydantic

from bench.experiment import Cell
from bench.shuffle import OrderQuality
from datasets.errors import DataError, RoomError
from loaders.manifest import Frozen

RECORD_VERSION = 1
RUNS = "runs.jsonl"

Status = Literal["ok", "failed", "unavailable", "timeout"]


class Epoch(Frozen):
    """One epoch as it was timed, in seconds; ``step`` is what is left of ``total`` after ``wait`` and ``copy``.

    Attributes:
        total: from just before the first batch is asked for to the synchronised end of the last step.
        wait: blocked on the next batch. copy: host to device. step: the rest.
        images: delivered, over all passes.
        first_batch: seconds until the first batch was there.
        passes: times the images were gone through; over 1 only in ``load`` and ``compute``, where one pass is too short
            to time. Every other figure is the sum over the passes.
        bytes_read: from the disk meanwhile, by the run's processes and the embedded database server's.
        resident: the share of the store's pages that were in memory when it began, in [0, 1]; of cold epochs only.
        alone, alone_images: of ``train``: seconds of the model's steps on batches in place, directly after, and their images.
    """

    total: float
    wait: float
    copy_: float = pydantic.Field(alias="copy")
    step: float
    images: int
    first_batch: float
    passes: int = 1
    bytes_read: int | None = None
    resident: float | None = None
    alone: float | None = None
    alone_images: int | None = None

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @property
    def seconds(self) -> float:
        """Seconds of one pass: the epoch time that tables show."""
        return self.total / self.passes


class Record(Frozen):
    """One run of one cell.

    Attributes:
        error: one line, where status is not ``ok``.
        exit_status: what the error would end the command line with; 0 where status is ``ok``.
        dataset: as tables show it, such as ``cifar10 (part)``; the cell holds what was asked for.
        epochs: every epoch, the first (start of workers, first touch) included.
        losses: training loss of every step, in order.
        accuracy, macro_f1: on the validation images, after the last epoch, in [0, 1].
        train_images, val_images: images of one pass, and images evaluated.
        order_sha256, pixel_sha256: of the first epoch's indices, and of the pixels they were read as.
        content_sha256: of the store's train split, from its manifest.
        path_taken: the code path that served the reads, and what decoded the pictures.
        differences: what the backend declares it can't promise (``order``, ``pixels``, ``held``), and why.
        order_quality: of the first epoch's order, where it is not the sampler's.
        store_bytes, pack_seconds: of the store.
        not_cold: why a run of a cold cell was not cold; empty where it was, and in warm ones.
        bytes_read, cpu_seconds: from the disk, and of processors, by the run's processes and the embedded server's.
        pss_bytes: memory of the run's processes at the end, shared pages divided among their users.
        peak_pss_bytes: the most that was seen of it, looking at most twice a second.
        gpu_utilisation, gpu_bytes: mean share of time in which the GPU worked, and the most of its memory taken; of the
            whole device, through NVML.
        threads: of torch's operations in the run. thread_pools: of every library that has a pool of its own, by name.
        device: such as ``cpu``.
        reference_seconds: what a fixed piece of work took, the slower of once before and once after the run.
        disturbed: that was far slower than when the machine is calm. attempt: 0, and counted up where it was run again.
        started: UTC, ISO 8601. seconds: the whole run, set-up and evaluation included.
    """

    version: int = RECORD_VERSION
    cell: Cell
    round: int
    position: int
    seed: int
    status: Status
    error: str = ""
    exit_status: int = 0
    dataset: str
    epochs: tuple[Epoch, ...] = ()
    losses: tuple[float, ...] = ()
    accuracy: float | None = None
    macro_f1: float | None = None
    train_images: int | None = None
    val_images: int | None = None
    order_sha256: str = ""
    pixel_sha256: str = ""
    content_sha256: str = ""
    path_taken: str = ""
    not_cold: str = ""
    differences: dict[str, str] = pydantic.Field(default_factory=dict)
    order_quality: OrderQuality | None = None
    store_bytes: int | None = None
    pack_seconds: float | None = None
    bytes_read: int | None = None
    cpu_seconds: float | None = None
    pss_bytes: int | None = None
    peak_pss_bytes: int | None = None
    gpu_utilisation: float | None = None
    gpu_bytes: int | None = None
    threads: int | None = None
    thread_pools: dict[str, int] = pydantic.Field(default_factory=dict)
    device: str = "cpu"
    reference_seconds: float | None = None
    disturbed: bool = False
    attempt: int = 0
    started: str
    seconds: float

    @property
    def measured(self) -> tuple[Epoch, ...]:
        """The epochs that count: all but the first."""
        return self.epochs[1:]

    @property
    def epoch_seconds(self) -> float | None:
        """The run's figure: mean seconds of its measured epochs."""
        if not self.measured:
            return None
        return sum(epoch.seconds for epoch in self.measured) / len(self.measured)


def append(folder: Path, record: Record) -> None:
    """Add a record to ``folder/runs.jsonl``: one write, then fsync, so that a finished run is never lost.

    Raises:
        RoomError: the disk is full, or the folder can't be written.
    """
    line = (record.model_dump_json(by_alias=True) + "\n").encode()
    try:
        file = os.open(folder / RUNS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _append_whole(file, line)
        finally:
            os.close(file)
    except OSError as error:
        raise RoomError(folder / RUNS, error) from error


def _append_whole(file: int, line: bytes) -> None:
    """Write and flush ``line``; what a full disk cut short is taken back, so that the lines before it stay readable."""
    end = os.fstat(file).st_size
    # A line that an earlier kill cut short must not swallow this one.
    if end and os.pread(file, 1, end - 1) != b"\n":
        line = b"\n" + line
    try:
        if os.write(file, line) != len(line):
            raise OSError(28, "No space left on device")
        os.fsync(file)
    except OSError:
        os.ftruncate(file, end)
        raise


def read(folder: Path) -> list[Record]:
    """The records of a run folder, in the order they were written; a last line cut short by a kill is left out.

    Raises:
        DataError: there are none, or a line is no record; names the line.
    """
    path = folder / RUNS
    try:
        lines = path.read_bytes().split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{folder} holds no {RUNS}; name a folder that `loadstone run` wrote") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; it must be a file that can be read") from None
    return [_parse(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1) if not _cut_short(line)]


def _cut_short(line: bytes) -> bool:
    """Empty, or the start of a record whose writing a kill ended: that run is run again."""
    start = b'{"version":'
    if line[: len(start)] != start[: len(line)]:
        return False
    try:
        json.loads(line)
    except ValueError:
        return True
    return False


def _parse(where: str, line: bytes) -> Record:
    try:
        fields = json.loads(line)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise DataError(f"{where}: it is no record; name a folder that `loadstone run` wrote")
    if fields.get("version") != RECORD_VERSION:
        found = f"record version {fields.get('version')}, this is {RECORD_VERSION}"
        raise DataError(f"{where}: {found}; use the version of Loadstone that wrote it")
    try:
        return Record.model_validate(fields)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        raise DataError(f"{where}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
