"""The contract suite on every backend of the registry, with every codec that it takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loaders.feed import FeedStore
from loaders.manifest import Content, Manifest
from loaders.registry import BACKENDS, availability, store_class
from tests.loaders import contract
from tests.loaders.conftest import Packed
from tests.loaders.sources import Expected, expected

KINDS: dict[str, Expected] = {
    "raw": expected("raw"),
    "raw-grey": expected("raw", channels=1),
    "png": expected("png"),
    "jpeg": expected("jpeg"),
    "jpeg-grey": expected("jpeg", channels=1),
    "raw-differing": expected("raw", differing=True),
    "png-differing": expected("png", differing=True),
    "jpeg-differing": expected("jpeg", differing=True),
}


# A GPU decodes nothing by itself: asked for by name, these refuse what is not raw and of one size.
GATHERED = ("gpu_mmap:fused", "gpu_mmap:resident", "gpu_mmap:zero_copy")


def pairs() -> Iterator[tuple[str, str]]:
    """Every backend that can run here, by each of its code paths, with every kind of data set that it takes."""
    for name in BACKENDS:
        if not availability(name).ok or issubclass(store_class(name), FeedStore):
            continue
        paths = store_class(name).paths
        for way in (name, *(f"{name}:{path}" for path in paths if len(paths) > 1)):
            yield from ((way, kind) for kind in kinds_of(name) if way not in GATHERED or kind in ("raw", "raw-grey"))


def kinds_of(name: str) -> list[str]:
    """The kinds of data sets that a backend takes."""
    refuses = store_class(name).refuses
    return [kind for kind, wanted in KINDS.items() if not refuses(Content.of(wanted.source.info, wanted.codec))]


PAIRS = list(pairs())


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("way", "kind"), PAIRS, ids=lambda part: part)
def test_contract(way: str, kind: str, check: contract.Check, packed: Packed, elsewhere: contract.Elsewhere) -> None:
    """Every backend keeps every promise of the contract, or declares why it can't."""
    subject = contract.Subject(packed(way, kind, KINDS[kind]), KINDS[kind], elsewhere)
    reason = contract.DIFFERENCES.get(way.partition(":")[0], {}).get(check.__name__)
    if reason is None:
        check(subject)
        return
    with pytest.raises(AssertionError):
        check(subject)
    pytest.xfail(reason)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_is_put_to_the_contract(name: str) -> None:
    """No backend of the registry is left out; one that can't run here says why."""
    here = availability(name)
    if not here.ok:
        pytest.skip(f"{name}: {here.reason}")
    if issubclass(store_class(name), FeedStore):
        pytest.skip(f"{name} is a feed: tests/loaders/test_feeds.py")
    assert {kind for way, kind in PAIRS if way.partition(":")[0] == name} >= {"raw", "raw-grey", "raw-differing"}


@pytest.mark.parametrize("kind", KINDS)
def test_content_digests_agree(kind: str, packed: Packed) -> None:
    """All backends of one source and codec show the same content digests."""
    names = [name for name in BACKENDS if availability(name).ok and kind in kinds_of(name)]
    digests = {}
    for name in names:
        splits = Manifest.read(packed(name, kind, KINDS[kind]).root).splits
        digests[name] = {split: manifest.content_sha256 for split, manifest in splits.items()}
    assert len(names) >= 3
    assert all(found == digests["mmap"] for found in digests.values()), digests


def test_differences_name_a_backend_a_check_and_a_reason() -> None:
    """What a backend declares is data that means something."""
    checks = {check.__name__ for check in contract.CHECKS}
    for name, declared in contract.DIFFERENCES.items():
        assert name in BACKENDS
        assert declared.keys() <= checks
        assert all(len(reason) > 20 for reason in declared.values())
