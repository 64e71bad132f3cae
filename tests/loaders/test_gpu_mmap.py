"""``gpu_mmap`` and its engine, by the same code with the process in the GPU's place; on a GPU where there is one."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.errors import DeviceRefused, PathRefused, SampleCorrupt, Unavailable
from loaders import gpu, loader
from loaders.augment import Augment
from loaders.backends import gpu_mmap
from loaders.backends.gpu_mmap import Gathered, populate
from loaders.engines import stream
from loaders.gpu import CudaGpu
from loaders.mapping import map_bytes
from loaders.order import Draws
from loaders.pack import pack
from loaders.registry import availability
from tests.loaders import contract
from tests.loaders.conftest import Packed
from tests.loaders.contract import Elsewhere, Subject
from tests.loaders.fake_gpu import ProcessGpu, ProcessStore
from tests.loaders.sources import expected
from train.augment import PadCropFlip

KINDS = {
    "raw": expected("raw"),
    "raw-grey": expected("raw", channels=1),
    "png": expected("png"),
    "jpeg-differing": expected("jpeg", differing=True),
}
WAYS = [
    ("resident", "raw"),
    ("fused", "raw"),
    ("zero_copy", "raw"),
    ("zero_copy", "raw-grey"),
    *(("staged", kind) for kind in KINDS),
]
DRAWS = Draws(seed=5, epoch=2, training=True)


@pytest.fixture
def device() -> Iterator[ProcessGpu]:
    """A fresh GPU that is this process."""
    before, ProcessStore.shared = ProcessStore.shared, ProcessGpu()
    yield ProcessStore.shared
    ProcessStore.shared = before


def store(packed: Packed, kind: str = "raw", path: str | None = None) -> ProcessStore:
    """The files of ``mmap``, read by ``gpu_mmap`` on a GPU that is this process."""
    sound = packed("mmap", kind, KINDS[kind])
    return ProcessStore(sound.root, sound.content, path=path)


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("path", "kind"), WAYS, ids=lambda part: part)
def test_every_way_keeps_the_contract(
    path: str, kind: str, check: contract.Check, packed: Packed, elsewhere: Elsewhere, device: ProcessGpu
) -> None:
    """What a GPU would be asked for gives the pictures, order and errors of every backend; the way asked for is taken."""
    check(Subject(store(packed, kind, path), KINDS[kind], elsewhere))


@pytest.mark.parametrize(
    ("free", "refuses", "way"),
    [(1 << 40, "", "resident"), (100, "", "zero_copy"), (100, "code 1", "staged")],
)
def test_the_fastest_way_that_holds_is_taken(free: int, refuses: str, way: str, packed: Packed, device: ProcessGpu) -> None:
    """From GPU memory where it fits, else over the bus where the mapping can be registered, else through pinned memory."""
    device.free, device.refuses = free, refuses
    with contextlib.closing(store(packed).reader("train")) as reader:
        assert reader.path_taken.startswith(way)
        assert ("not resident: " in reader.path_taken) == (free == 100)
        assert ("not zero_copy: code 1" in reader.path_taken) == bool(refuses)


@pytest.mark.parametrize(("path", "why"), [("resident", "are over 50%"), ("zero_copy", "code 1")])
def test_a_way_asked_for_by_name_is_not_replaced(path: str, why: str, packed: Packed, device: ProcessGpu) -> None:
    """Falling back would measure something else."""
    device.free, device.refuses = 100, "code 1"
    reader = store(packed, path=path).reader("train")
    with pytest.raises(PathRefused, match=why):
        reader.read(np.array([0]), np.empty((1, 12, 10, 3), np.uint8), DRAWS)


def test_encoded_pictures_are_staged(packed: Packed, device: ProcessGpu) -> None:
    """The GPU gathers raw pictures of one size; the CPU decodes others, and the path says why."""
    with contextlib.closing(store(packed, "png").reader("train")) as reader:
        assert reader.path_taken.startswith("staged")
        assert "decoded by the CPU" in reader.path_taken
    with pytest.raises(PathRefused, match="raw pictures of one size"):
        _ = store(packed, "png", "zero_copy").reader("train").path_taken


def test_a_file_that_would_pin_too_much_is_not_registered(
    packed: Packed, device: ProcessGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registered pages can't be given up, so a share of the machine's memory is the limit."""
    monkeypatch.setattr(gpu_mmap, "REGISTERED_SHARE", 0.0)
    device.free = 100
    with contextlib.closing(store(packed).reader("train")) as reader:
        assert "not zero_copy" in reader.path_taken
    assert not device.registered


def test_no_room_on_the_gpu_is_a_reason_to_fall_back(
    packed: Packed, device: ProcessGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that was said to be free may be gone when it is asked for."""

    def full(shape: tuple[int, ...]) -> torch.Tensor:
        raise DeviceRefused("the GPU has no room")

    monkeypatch.setattr(device, "empty", full)
    with contextlib.closing(store(packed).reader("train")) as reader:
        assert reader.path_taken.startswith("zero_copy")
        assert "not resident: the GPU has no room" in reader.path_taken


def test_a_mapping_is_unregistered_before_it_goes(packed: Packed, device: ProcessGpu) -> None:
    """On close, and where a reader is dropped without: the fake reads the last byte, which a missing page would not survive."""
    kept = store(packed, path="zero_copy")
    reader = kept.reader("train")
    assert reader.path_taken.startswith("zero_copy")
    assert len(device.registered) == 1
    reader.close()
    reader.close()
    assert not device.registered
    assert [what[0] for what in device.log].count("unregister") == 1
    dropped = kept.reader("train")
    assert dropped.path_taken.startswith("zero_copy")
    assert len(device.registered) == 1
    del dropped
    gc.collect()
    assert not device.registered


def test_several_stores_are_registered_at_once(packed: Packed, device: ProcessGpu) -> None:
    """Each has a mapping of its own: closing one leaves the others."""
    open_at_once = [store(packed, kind, "zero_copy").reader("train") for kind in ("raw", "raw", "raw-grey")]
    assert all(reader.path_taken for reader in open_at_once)
    assert len(device.registered) == 3
    open_at_once[0].close()
    assert len(device.registered) == 2
    out = np.empty((1, 12, 10, 3), np.uint8)
    open_at_once[1].read(np.array([7]), out, DRAWS)
    assert np.array_equal(out, KINDS["raw"].batch("train", [7], DRAWS))
    for reader in open_at_once:
        reader.close()
    assert not device.registered


def test_a_forked_child_leaves_its_parent_s_registrations(packed: Packed, device: ProcessGpu) -> None:
    """A child that drops a reader must not touch CUDA, which is its parent's."""
    reader = store(packed, path="zero_copy").reader("train")
    way = reader.way

    def in_child() -> None:
        way.close()
        assert not [what for what in device.log if what[0] == "unregister"]

    assert contract.in_child(in_child)
    reader.close()


def test_a_file_is_mapped_shared(tmp_path: Path) -> None:
    """What is registered is the file's own pages: a change of the file shows."""
    file = tmp_path / "data"
    file.write_bytes(b"\1" * 5000)
    data, _ = map_bytes(file)
    populate(data[:3000])
    assert not data.flags.writeable
    with file.open("r+b") as handle:
        handle.write(b"\7")
    assert data[0] == 7


@pytest.mark.parametrize(("path", "times"), [("zero_copy", 1), ("resident", 0), ("staged", 0)])
def test_only_what_is_registered_is_read_whole(
    path: str, times: int, packed: Packed, device: ProcessGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A staged file may be larger than memory: to bring it all in would push out everything else."""
    asked: list[int] = []
    monkeypatch.setattr(gpu_mmap, "populate", lambda data: asked.append(data.nbytes))
    with contextlib.closing(store(packed, path=path).reader("train")) as reader:
        assert reader.path_taken.startswith(path)
    assert len(asked) == times


def test_payloads_need_no_gpu(packed: Packed, device: ProcessGpu) -> None:
    """What was packed can be verified on a machine without one."""
    with contextlib.closing(store(packed).reader("train")) as reader:
        assert bytes(reader.payloads(np.array([5]))[0]) == KINDS["raw"].payloads["train"][5]
    assert not device.log


# Cropping and mirroring on the device.


def test_fused_batches_are_those_that_training_would_make(packed: Packed, device: ProcessGpu) -> None:
    """By the same draws, in both epochs, whatever batch a picture falls into; evaluation gets its pictures as they are."""
    augment = Augment((2, 1), (9, 8, 7))
    by_training = PadCropFlip(augment, (12, 10), 5, torch.device("cpu"))
    with (
        loader(store(packed, path="fused"), batch_size=4, seed=5, augment=augment) as fused,
        loader(store(packed, path="resident"), batch_size=4, seed=5) as bare,
    ):
        assert fused.path_taken.startswith("fused")
        for epoch in (0, 1):
            for ours, plain in zip(fused, bare, strict=True):
                assert np.array_equal(ours.indices, plain.indices)
                assert torch.equal(ours.labels, plain.labels)
                assert torch.equal(ours.images, by_training(plain.images, plain.indices, epoch))
    with loader(store(packed, path="fused"), "val", batch_size=4, augment=augment) as fused:
        images = torch.cat([batch.images for batch in fused]).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(images, np.stack(KINDS["raw"].pictures["val"]))


def test_blocks_and_groups_change_nothing(packed: Packed, device: ProcessGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many batches are gathered, and how many indices are uploaded at once, shows in no batch."""
    augment = Augment((2, 2), (0, 0, 0))

    def read() -> list[torch.Tensor]:
        with loader(store(packed, path="fused"), batch_size=4, seed=5, augment=augment) as batches:
            return [part for batch in batches for part in (batch.images.clone(), batch.labels)]

    whole = read()
    monkeypatch.setattr(stream, "BLOCK", 12)
    monkeypatch.setattr(gpu_mmap, "GPU_GROUP_BYTES", 2 * 4 * 12 * 10 * 3)
    assert all(torch.equal(one, other) for one, other in zip(whole, read(), strict=True))


# The engine.


@pytest.mark.parametrize("path", ["resident", "zero_copy", "staged", "fused"])
def test_batches_are_made_beside_and_joined(path: str, packed: Packed, device: ProcessGpu) -> None:
    """Every batch is read on the side stream; the training stream waits for its mark, and for none other, before it has it."""
    with loader(store(packed, path=path), batch_size=4, seed=1) as batches:
        epoch = iter(batches)
        next(epoch)
        marks = {what[1]: what[2] for what in device.log if what[0] == "mark"}
        joins = [what for what in device.log if what[0] == "join"]
        assert set(marks.values()) == {"side"}
        assert len(marks) >= (2 if path == "staged" else 1)
        assert len(joins) == 1
        assert joins[0][1] in marks
        assert joins[0][2] == 2
        assert len(list(epoch)) == 5


def test_batches_are_read_ahead(packed: Packed, device: ProcessGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the first batch is handed over, the next ones have been asked for; gathers of several batches are one."""
    monkeypatch.setattr(gpu_mmap, "BUS_GROUP_BYTES", 2 * 4 * 12 * 10 * 3)
    asked: list[int] = []
    gather = Gathered.gather

    def noted(self: Gathered, places: torch.Tensor, out: torch.Tensor) -> None:
        asked.append(len(places))
        gather(self, places, out)

    monkeypatch.setattr(Gathered, "gather", noted)
    with loader(store(packed, path="zero_copy"), batch_size=4, seed=1) as batches:
        epoch = iter(batches)
        first = next(epoch)
        assert asked == [8, 8, 7]
        sizes = [len(first.images), *(len(batch.images) for batch in epoch)]
        assert sizes == [4, 4, 4, 4, 4, 3]


def test_an_epoch_left_early_leaves_nothing_behind(packed: Packed, device: ProcessGpu) -> None:
    """Batches read ahead of an epoch that was given up turn up in no later one."""
    with loader(store(packed, path="staged"), batch_size=2, seed=1) as batches:
        for _ in range(3):
            batches.set_epoch(0)
            epoch = iter(batches)
            next(epoch)
            epoch.close()  # type: ignore[attr-defined]
        batches.set_epoch(1)
        found = [index for batch in batches for index in batch.indices]
        assert found == list(batches.order(1))


def test_an_unreadable_picture_is_named(tmp_path: Path, device: ProcessGpu) -> None:
    """An error in a thread that stages comes out where the batch is asked for, with its parts."""
    sound = pack(KINDS["png"].source, "mmap", tmp_path, codec="png")
    file = sound.root / "train.bin"
    data = bytearray(file.read_bytes())
    data[data.index(KINDS["png"].payloads["train"][5]) + 40] ^= 0xFF
    file.write_bytes(data)
    with loader(ProcessStore(sound.root, sound.content), batch_size=4, shuffle=False) as batches:
        epoch = iter(batches)
        next(epoch)
        with pytest.raises(SampleCorrupt, match="sample 5 of train"):
            list(epoch)


def test_the_stream_engine_reads_no_other_backend(packed: Packed) -> None:
    """Other backends' batches are born on the CPU: the error names what reads them."""
    sound = packed("mmap", "raw", KINDS["raw"])
    with pytest.raises(Unavailable, match="read it by engine torch"):
        loader(sound, engine="stream")


# CUDA's side, with a driver that is not there.


class Refusing:
    """A driver that knows ``attributes``, and answers with ``code``."""

    def __init__(self, supported: int = 1, code: int = 0, pointer_code: int = 0) -> None:
        self.supported, self.code, self.pointer_code = supported, code, pointer_code
        self.calls: list[tuple[object, ...]] = []

    def attribute(self, which: int, device: int) -> int:
        assert which == 113
        return self.supported

    def register(self, address: int, size: int, flags: int) -> int:
        self.calls.append(("register", size, flags))
        return self.code

    def unregister(self, address: int) -> int:
        self.calls.append(("unregister",))
        return 0

    def device_pointer(self, address: int) -> tuple[int, int]:
        return self.pointer_code, address


@pytest.fixture
def _cuda_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own calls, of which there is nothing to see without a GPU."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


DATA = np.zeros((4, 8), np.uint8)


def test_a_context_is_made_before_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver registers nothing without one; that there is none is said when a device is started, not at a later step."""

    def full(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(Unavailable, match="out of memory"):
        CudaGpu().start()


def test_memory_that_torch_keeps_unused_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store opened for the second time finds what the first reader gave back to torch's allocator."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 20)
    assert CudaGpu().free_bytes() == 150


@pytest.mark.parametrize(
    ("capability", "usable"),
    [((9, 0), True), ((8, 0), True), ((8, 9), True), ((7, 5), True), ((7, 0), False), ((6, 1), False), ((12, 1), True)],
)
def test_a_card_without_kernels_is_unavailable(
    capability: tuple[int, int], usable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch says that a device is there, and every run on it would die: better a row with the reason."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90a", "sm_90", "sm_120", "compute_120"])
    found = gpu.availability()
    assert found.ok == usable
    assert usable or f"{capability[0]}.{capability[1]}" in found.reason


def test_a_driver_that_is_too_old_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch warns of once stands in the reason."""

    def refuse() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", refuse)
    assert "too old" in gpu.availability().reason


@pytest.mark.usefixtures("_cuda_is_quiet")
def test_registering_asks_for_read_only_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's mapping registers as read-only and mapped, or not at all."""
    driver = Refusing()
    monkeypatch.setattr(CudaGpu, "view", lambda self, pointer, shape: torch.empty(shape, dtype=torch.uint8))
    assert CudaGpu(lambda: driver).register(DATA).shape == (4, 8)
    assert driver.calls == [("register", 32, 0x08 | 0x02)]


@pytest.mark.usefixtures("_cuda_is_quiet")
@pytest.mark.parametrize(
    ("driver", "why", "calls"),
    [
        (Refusing(supported=0), "can't register read-only", []),
        (Refusing(code=1), "CUDA's error 1", ["register"]),
        (Refusing(code=2), "CUDA's error 2", ["register"]),
        (Refusing(pointer_code=201), "no address", ["register", "unregister"]),
    ],
)
def test_what_the_driver_refuses_is_a_reason(driver: Refusing, why: str, calls: list[str]) -> None:
    """A device that can't, a mapping that is refused, no memory: each falls back, and nothing stays registered."""
    with pytest.raises(DeviceRefused, match=why):
        CudaGpu(lambda: driver).register(DATA)
    assert [call[0] for call in driver.calls] == calls


def test_a_process_forked_after_cuda_started_is_refused(monkeypatch: pytest.MonkeyPatch, packed: Packed) -> None:
    """Torch's error names no remedy that fits; ours says where to read instead."""

    def forked() -> None:
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, use spawn")

    monkeypatch.setattr(torch.cuda, "init", forked)
    sound = packed("mmap", "raw", KINDS["raw"])
    reader = gpu_mmap.GpuMmapStore(sound.root, sound.content).reader("train")
    with pytest.raises(Unavailable, match=r"before this process was forked.*without workers"):
        reader.read(np.array([0]), np.empty((1, 12, 10, 3), np.uint8), DRAWS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_gpu_it_says_so(packed: Packed) -> None:
    """The table's row has the reason and the remedy, and opening a store all the same is an error of the project."""
    found = availability("gpu_mmap")
    assert not found.ok
    assert "no CUDA device" in found.reason
    assert "use mmap" in found.remedy
    sound = packed("mmap", "raw", KINDS["raw"])
    with pytest.raises(Unavailable, match="use mmap"):
        _ = gpu_mmap.GpuMmapStore(sound.root, sound.content).reader("train").path_taken


# On a GPU. The contract suite runs there too, as for every backend of the registry.


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("path", ["resident", "zero_copy", "staged", "fused"])
def test_a_gpu_delivers_an_epoch(path: str, packed: Packed) -> None:
    """Batches are born on the GPU, with the pictures and labels of the order asked for."""
    sound = packed("gpu_mmap", "raw", KINDS["raw"])
    by_path = type(sound)(sound.root, sound.content, path=path)
    with loader(by_path, batch_size=4, seed=1) as batches:
        assert batches.path_taken.startswith(path)
        for batch in batches:
            assert batch.images.is_cuda
            assert batch.labels.is_cuda
            wanted = KINDS["raw"].batch("train", [int(index) for index in batch.indices], DRAWS)
            assert np.array_equal(batch.images.permute(0, 2, 3, 1).cpu().numpy(), wanted)
