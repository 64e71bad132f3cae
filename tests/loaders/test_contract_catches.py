"""Stores broken on purpose: the contract suite must find each of them out."""

from __future__ import annotations

import pytest

from loaders.backends.mmap import MmapStore
from tests.loaders import broken
from tests.loaders.conftest import Packed
from tests.loaders.contract import CHECKS, Elsewhere, Subject, failures
from tests.loaders.sources import Expected, expected

RAW, JPEG = expected("raw"), expected("jpeg")


CAUGHT_BY: dict[type[broken.Broken], str] = {
    broken.OffByOne: "order_is_the_one_asked_for",
    broken.SwappedLabels: "labels_are_the_source_s",
    broken.OrderIgnored: "order_is_the_one_asked_for",
    broken.StaleAfterFork: "a_forked_child_reads_by_itself",
    broken.ChannelsSwapped: "channels_are_red_green_blue",
    broken.LastBatchDropped: "the_last_batch_is_delivered",
    broken.BufferReused: "a_batch_owns_its_bytes",
    broken.OnePayload: "payloads_are_the_codec_s_bytes",
    broken.WrapsAround: "an_index_outside_is_refused",
    broken.CarriesAll: "a_reader_travels_to_another_process",
}


def subject(kind: type[MmapStore], wanted: Expected, packed: Packed, elsewhere: Elsewhere) -> Subject:
    """The files of ``mmap``, read by ``kind``."""
    sound = packed("mmap", f"catches-{wanted.codec}", wanted)
    return Subject(kind(sound.root, sound.content), wanted, elsewhere)


@pytest.mark.parametrize("wanted", [RAW, JPEG], ids=lambda wanted: wanted.codec)
def test_the_sound_store_passes(wanted: Expected, packed: Packed, elsewhere: Elsewhere) -> None:
    """What the broken stores are made from has no fault itself."""
    assert failures(subject(MmapStore, wanted, packed, elsewhere)) == {}


@pytest.mark.parametrize(("kind", "name"), CAUGHT_BY.items(), ids=lambda part: getattr(part, "__name__", part))
def test_a_broken_store_is_caught(kind: type[broken.Broken], name: str, packed: Packed, elsewhere: Elsewhere) -> None:
    """The check that is there for a fault finds it."""
    check = next(check for check in CHECKS if check.__name__ == name)
    with pytest.raises(AssertionError):
        check(subject(kind, RAW, packed, elsewhere))


def test_a_stale_handle_is_caught_by_nothing_else(packed: Packed, elsewhere: Elsewhere) -> None:
    """A file shared over a fork shows only where both processes go on reading: no other check of one process sees it."""
    found = failures(subject(broken.StaleAfterFork, RAW, packed, elsewhere))
    assert "a_forked_child_reads_by_itself" in found
    assert "does the child use the parent's handle?" in found["a_forked_child_reads_by_itself"]
    assert found.keys() <= {"a_forked_child_reads_by_itself", "loaders_follow_the_order_whatever_reads"}
