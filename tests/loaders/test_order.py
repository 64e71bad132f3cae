"""Order and draws are pure functions, the same on every machine and in every version."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders.order import WHOLE, Draw, InOrder, Scattered, by_part, digest, order, subset, uniform

SEEDS = st.integers(0, 2**64 - 1)
EPOCHS = st.integers(0, 10**6)
WORD = 2**64 - 1


@given(count=st.integers(0, 400), seed=SEEDS, epoch=EPOCHS)
def test_order_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    """Every index comes once, as int64, and the same each time."""
    found = order(count, seed, epoch)
    assert found.dtype == np.int64
    assert sorted(found) == list(range(count))
    assert (found == order(count, seed, epoch)).all()


def test_order_differs_by_seed_and_epoch() -> None:
    """Each epoch of each seed has an order of its own."""
    digests = {digest(order(500, seed, epoch)) for seed in range(10) for epoch in range(10)}
    assert len(digests) == 100


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ((10, 0, 0), "125a3260757541ed3f27f2133d1864b99610ea2be50f47b68ac21491bdb15b46"),
        ((1000, 0, 0), "bc877a4804c50f4db053ec86ecaa4ef85055c1c9a534b8c7dcdc10f3e0b4fb56"),
        ((1000, 0, 1), "70418b1c1cc1ec64f81bd709a292b53ed1919f640df9bcc3dcdc27f8e47a7eb4"),
        ((1000, 7, 3), "e56340ed142265c71f2eafc1999522beff86eda9ff999ff098624a60ea3bece8"),
    ],
)
def test_order_stays_as_it_was(key: tuple[int, int, int], wanted: str) -> None:
    """The order of committed results is still drawn: a change of ours or of NumPy's is noticed here."""
    assert digest(order(*key)) == wanted


def test_order_leaves_numpy_s_generator_alone() -> None:
    """Drawing an order neither reads nor moves the global generator."""
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    order(100, 0, 0)
    uniform(0, 0, np.arange(3), Draw.FLIP)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


def test_the_digest_tells_the_order() -> None:
    """The digest is of the indices in their order, whatever integers hold them."""
    assert digest(np.array([1, 2])) != digest(np.array([2, 1]))
    assert digest(np.array([1, 2], np.int32)) == digest(np.array([1, 2], ">i8")) == digest(np.array([1, 9, 2])[::2])


@given(count=st.integers(1, 300), limit=st.one_of(st.none(), st.integers(0, 400)))
def test_a_subset_is_the_same_each_time(count: int, limit: int | None) -> None:
    """``limit`` different indices in ascending order; all of them where there are no more."""
    found = subset(count, limit)
    assert len(found) == (count if limit is None else min(count, limit))
    assert (np.diff(found) > 0).all()
    assert found.dtype == np.int64
    assert ((found >= 0) & (found < count)).all()
    assert (found == subset(count, limit)).all()


def test_a_subset_stays_as_it_was() -> None:
    """The pictures that committed results were trained on are still the ones chosen; they are spread over the split."""
    found = subset(1000, 100)
    assert digest(found) == "2b3bb2411725f9d44c44cf7a23365603db485a41ab49e1bd3c35263092a265e6"
    assert 400 < found.mean() < 600


def splitmix(word: int) -> int:
    """SplitMix64's finaliser, in Python's own numbers."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & WORD
    return word ^ (word >> 31)


@given(seed=SEEDS, epoch=EPOCHS, index=st.integers(0, 2**62), draw=st.integers(0, 1000))
def test_uniform_is_the_published_hash(seed: int, epoch: int, index: int, draw: int) -> None:
    """A draw is the chained SplitMix64 of its key, as computed by other means."""
    state = 0
    for word in (seed, epoch, index, draw):
        state = splitmix((state + 0x9E3779B97F4A7C15 + word) & WORD)
    assert uniform(seed, epoch, np.array([index]), draw).tolist() == [(state >> 11) / 2**53]


@given(seed=SEEDS, epoch=EPOCHS, indices=st.lists(st.integers(0, 2**40), max_size=30), cut=st.integers(0, 30))
def test_uniform_does_not_depend_on_the_batch(seed: int, epoch: int, indices: list[int], cut: int) -> None:
    """A sample's number is the same in any batch, and lies in [0, 1)."""
    places = np.array(indices, dtype=np.int64)
    whole = uniform(seed, epoch, places, Draw.BOX)
    parts = [uniform(seed, epoch, part, Draw.BOX) for part in (places[:cut], places[cut:])]
    assert whole.dtype == np.float64
    assert whole.tolist() == np.concatenate(parts).tolist()
    assert ((whole >= 0) & (whole < 1)).all()


def test_no_two_keys_share_their_numbers() -> None:
    """Seed, epoch, index and draw each count by themselves: epoch 1 of seed 0 is not epoch 0 of seed 1."""
    keys = itertools.product(range(4), repeat=4)
    found = {uniform(seed, epoch, np.array([index]), draw)[0] for seed, epoch, index, draw in keys}
    assert len(found) == 4**4


@pytest.mark.parametrize("axis", ["index", "epoch", "seed", "draw"])
def test_uniform_is_uniform(axis: str) -> None:
    """Numbers are spread evenly and do not follow each other, along whatever part of the key."""
    numbers = np.arange(20_000)
    if axis == "index":
        found = uniform(1, 2, numbers, 3)
    else:
        keys = {"epoch": (0, 1), "seed": (1, 0), "draw": (0, 0)}[axis]
        found = np.array(
            [uniform(keys[1] * n, keys[0] * n, numbers[:1], n if axis == "draw" else 3)[0] for n in map(int, numbers)]
        )
    counts = np.histogram(found, bins=20, range=(0, 1))[0]
    chi_squared = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_squared < 60  # 19 degrees of freedom: exceeded once in 300,000
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.03


def test_draws_are_independent() -> None:
    """What is drawn for one purpose says nothing of what is drawn for another, nor one epoch of the next."""
    indices = np.arange(20_000)
    flips = uniform(0, 0, indices, Draw.FLIP)
    for other in (uniform(0, 0, indices, Draw.CROP_TOP), uniform(0, 1, indices, Draw.FLIP), uniform(1, 0, indices, Draw.FLIP)):
        assert abs(np.corrcoef(flips, other)[0, 1]) < 0.03


@given(count=st.integers(1, 3000), seed=SEEDS, epoch=EPOCHS)
def test_an_order_by_the_part_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    """Every index comes once, and the parts are those of the whole, wherever they are cut."""
    scattered = Scattered(count, seed, epoch)
    whole = scattered[:]
    assert whole.dtype == np.int64
    assert sorted(whole) == list(range(count)) == InOrder(count)[:].tolist()
    cut = count // 3
    assert np.array_equal(np.concatenate([scattered[:cut], scattered[cut:]]), whole)
    assert np.array_equal(InOrder(count)[cut : cut + 5], np.arange(cut, min(cut + 5, count)))


def test_only_huge_orders_are_made_by_the_part() -> None:
    """Up to ``WHOLE`` the order is the one of committed results; beyond, opening an epoch costs nothing."""
    assert isinstance(by_part(WHOLE, 0, 0), np.ndarray)
    assert by_part(10**15, 0, 0)[10**14 : 10**14 + 2].shape == (2,)
    assert np.array_equal(order(WHOLE + 1, 3, 1)[-5:], by_part(WHOLE + 1, 3, 1)[WHOLE - 4 :])
    assert digest(Scattered(1000, 7, 3)[:]) == "e0d1c6df66d45a54436c10ce9e196a6d377188315ba6f88a4412ea726cdafd4b"


def test_an_order_by_the_part_differs_by_seed_and_epoch() -> None:
    """Each epoch of each seed has an order of its own, that stands in the others' places no more often than chance has it."""
    orders = np.stack([Scattered(5000, seed, epoch)[:] for seed in range(5) for epoch in range(5)])
    same = [(one == other).sum() for one, other in itertools.combinations(orders, 2)]
    assert 0.8 < np.mean(same) < 1.2  # of 5,000 places a random pair shares one; 300 pairs, so 0.06 either way
    assert max(same) < 10


def test_an_order_by_the_part_is_as_uniform_as_a_shuffle() -> None:
    """Where indices land, and what stands beside what, is spread evenly: chi-squared of 400 boxes each, over 50 orders."""
    count, boxes, orders = 2000, 20, [Scattered(2000, seed, 0)[:] for seed in range(50)]
    places = np.arange(count) * boxes // count
    landed = sum(np.histogram2d(places, found * boxes // count, boxes)[0] for found in orders)
    beside = sum(np.histogram2d(found[:-1], found[1:], boxes)[0] for found in orders)
    for counted in (landed, beside):
        mean = np.mean(counted)
        assert 0.75 < np.mean((counted - mean) ** 2 / mean) < 1.25  # 1 by chance, give or take 0.07
