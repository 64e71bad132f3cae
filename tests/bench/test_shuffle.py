"""Shuffle quality: what is uniform is judged so, and what is not is judged by how far it is from it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import shuffle

COUNT = 4000


def uniform(seed: int, count: int = COUNT) -> shuffle.Order:
    return np.random.default_rng(seed).permutation(count)


def buffered(seed: int, size: int) -> shuffle.Order:
    """Drawn from a buffer that is filled in order, as streams are shuffled."""
    rng, held, out = np.random.default_rng(seed), [], []
    for index in range(COUNT):
        held.append(index)
        if len(held) == size:
            out.append(held.pop(int(rng.integers(size))))
    return np.array(out + [held[place] for place in rng.permutation(len(held))])


def blocks(seed: int, size: int, *, within: bool) -> shuffle.Order:
    """Blocks in random order; each in its own order, or shuffled."""
    rng = np.random.default_rng(seed)
    parts = np.split(np.arange(COUNT), COUNT // size)
    return np.concatenate([rng.permutation(parts[at]) if within else parts[at] for at in rng.permutation(len(parts))])


def test_uniform_permutations_are_within_the_tolerance_as_often_as_said() -> None:
    """Of 400, five in a hundred lie over it, give or take what chance allows; and none far."""
    found = np.array([shuffle.distance(uniform(seed)) for seed in range(400)])
    over = (found > shuffle.tolerance(COUNT)).mean()
    assert 0.01 <= over <= 0.09
    assert found.max() < 2 * shuffle.tolerance(COUNT)


@pytest.mark.parametrize(
    ("order", "least"),
    [
        (np.arange(COUNT), 0.99),
        (np.arange(COUNT)[::-1], 0.4),
        (np.arange(COUNT).reshape(2, -1).T.ravel(), 0.4),
        (blocks(1, 200, within=False), 0.9),
        (blocks(1, 200, within=True), 0.5),
        (buffered(1, 200), 0.5),
    ],
    ids=["in order", "reversed", "two halves dealt", "shuffled blocks", "shuffled in shuffled blocks", "a buffer of a 20th"],
)
def test_what_is_not_uniform_is_far(order: shuffle.Order, least: float) -> None:
    """Every way of not shuffling well is seen, also one that moves pictures far, and one that parts neighbours."""
    assert least <= shuffle.distance(order) <= 1


def test_a_larger_buffer_is_nearer() -> None:
    """The figure orders shuffles as one would."""
    found = [shuffle.distance(buffered(3, size)) for size in (1, 40, 400, 2000, COUNT)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < shuffle.tolerance(COUNT) < found[-2]


@given(st.integers(0, 300), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_distance_is_in_its_bounds_and_the_same_backwards(count: int, seed: int) -> None:
    """Any permutation has a distance in [0, 1]; neighbours lie as far apart read from the other end."""
    order = uniform(seed, count)
    assert 0 <= shuffle.distance(order) <= 1
    assert 0 < shuffle.tolerance(count) <= 1
    assert shuffle.distance(order) == pytest.approx(shuffle.distance(count - 1 - order[::-1]))


def test_classes_of_random_batches_have_a_mix_of_one() -> None:
    """Whatever their number, their sizes, and the last batch."""
    for classes, size in ((2, 16), (10, 64), (200, 128)):
        labels = uniform(classes) % classes
        assert shuffle.class_mix(labels, size) == pytest.approx(1, abs=0.12)
        assert shuffle.class_mix(labels * 7 + 3, size) == shuffle.class_mix(labels, size)


def test_batches_of_one_class_each_are_told_by_their_mix() -> None:
    """Sorted by class the figure is that of no mix at all; dealt evenly it is near nothing."""
    labels = np.sort(uniform(0) % 10)
    none = shuffle.class_mix(labels, 50)
    even = shuffle.class_mix(np.arange(COUNT) % 10, 50)
    assert none is not None
    assert none > 5
    assert even == 0


def test_one_class_has_no_mix() -> None:
    """There is nothing to be mixed."""
    assert shuffle.class_mix(np.zeros(100, np.int64), 10) is None


def test_an_epoch_that_lacks_a_picture_is_not_complete() -> None:
    """Nor is one that brings one twice; a part of a split is judged by its own places."""
    wanted = np.arange(0, 2 * COUNT, 2)
    order = wanted[uniform(5)]
    labels = order % 10
    assert shuffle.judge(order, labels, wanted, 32).uniform
    assert not shuffle.judge(order[1:], labels[1:], wanted, 32).complete
    twice = order.copy()
    twice[0] = twice[1]
    assert not shuffle.judge(twice, labels, wanted, 32).complete
    assert not shuffle.judge(wanted, labels, wanted, 32).uniform
