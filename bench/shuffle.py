"""How well an order is shuffled: pure functions of the order that was delivered, for whatever does not keep the sampler's.

Two figures. ``distance`` compares the order with a uniform permutation: 0 is as good as one, 1 is no shuffle at all.
``class_mix`` compares the classes in a batch with the whole's: 1 is as mixed as random batches are, more is less mixed.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pydantic

from loaders.manifest import Frozen

Order = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]

# Both Kolmogorov distances below it at once, in 95 of 100 uniform permutations: each in 97.5 (the law's quantile is 1.48).
_QUANTILE = 1.48
_SIMULATED = 32


class OrderQuality(Frozen):
    """An epoch's order, judged.

    Attributes:
        complete: every picture came exactly once.
        distance: from a uniform permutation, in [0, 1]. tolerance: what 95 of 100 uniform permutations stay under.
        class_mix: mean distance of a batch's classes from the whole's, over what random batches show; None for one class.
    """

    complete: bool
    distance: float = pydantic.Field(ge=0, le=1)
    tolerance: float
    class_mix: float | None

    @property
    def uniform(self) -> bool:
        """Whether the order can't be told from a uniform shuffle."""
        return self.complete and self.distance <= self.tolerance


def judge(order: Order, labels: Order, wanted: Order, batch_size: int) -> OrderQuality:
    """Judge the order of one epoch.

    Args:
        order: int64 (n,), places in the split in the order they came.
        labels: int64 (n,), their classes.
        wanted: int64 (m,), the places that were to come, ascending.
        batch_size: pictures of a batch; the last one may hold fewer.
    """
    ranks = np.searchsorted(wanted, order)
    complete = len(order) == len(wanted) and bool((np.sort(order) == wanted).all())
    return OrderQuality(
        complete=complete,
        distance=distance(ranks),
        tolerance=tolerance(len(order)),
        class_mix=class_mix(labels, batch_size),
    )


def distance(ranks: Order) -> float:
    """The greater of two Kolmogorov distances from a uniform permutation, in [0, 1].

    One of how far each picture lies from where it would be unshuffled (a small buffer moves none far), one of how far apart
    neighbours come from (shuffled blocks move all far, but together). ``ranks`` is int64 (n,), a permutation of ``range(n)``.
    """
    count = len(ranks)
    if count < 2:
        return 0.0
    ranks = np.asarray(ranks, dtype=np.int64)
    moved = np.abs(ranks - np.arange(count))
    apart = np.abs(np.diff(ranks))
    steps = np.arange(count, dtype=np.float64)
    # Of two places drawn independently, and of two different ones: the chance that they lie at most ``steps`` apart.
    any_two = 1 - (count - steps - 1) * (count - steps) / count**2
    different = 1 - (count - steps - 1) * (count - steps) / (count * (count - 1))
    return max(_kolmogorov(moved, any_two), _kolmogorov(apart, different))


def _kolmogorov(values: Order, expected: Numbers) -> float:
    found = np.cumsum(np.bincount(np.minimum(values, len(expected) - 1), minlength=len(expected))) / len(values)
    return float(np.clip(np.abs(found - expected).max(), 0, 1))


def tolerance(count: int) -> float:
    """What ``distance`` stays under in 95 of 100 uniform permutations of ``count`` pictures; 1 for fewer than two."""
    return min(1.0, _QUANTILE / math.sqrt(count - 1)) if count > 1 else 1.0


def class_mix(labels: Order, batch_size: int) -> float | None:
    """Mean total variation between a batch's classes and the whole's, over its mean for random batches; None for one class.

    The random batches are 32 shuffles of the same labels, the same in every call.
    """
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    if len(labels) == 0 or labels.max() == 0:
        return None
    generator = np.random.Generator(np.random.Philox(key=np.array([0, 0], np.uint64)))
    usual = float(np.mean([_variation(generator.permutation(labels), batch_size) for _ in range(_SIMULATED)]))
    return _variation(labels, batch_size) / usual if usual else None


def _variation(labels: Order, batch_size: int) -> float:
    """Mean over batches, each as much as it holds."""
    classes = int(labels.max()) + 1
    batch = np.arange(len(labels)) // batch_size
    counts = np.bincount(batch * classes + labels, minlength=(int(batch[-1]) + 1) * classes).reshape(-1, classes)
    sizes = counts.sum(axis=1, keepdims=True)
    whole = np.bincount(labels, minlength=classes) / len(labels)
    variations = np.abs(counts / sizes - whole).sum(axis=1) / 2
    return float(np.average(variations, weights=sizes[:, 0]))
