"""Cropping and mirroring of pictures of one size: what is asked for, and what is drawn for each of them.

``train.augment`` does it for every backend; a store that ``augments`` does it itself, by the same draws.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loaders.order import Draw, Indices, uniform


class Augment(NamedTuple):
    """Padding, cropping back at a random place, and mirroring every other picture; He et al. 2016, section 4.2.

    Attributes:
        padding: pixels at (top and bottom, left and right); (0, 0) only mirrors.
        fill: the padding's colour, a level of [0, 255] a channel.
        flip: False never mirrors.
    """

    padding: tuple[int, int]
    fill: tuple[int, ...]
    flip: bool = True

    def draw(self, indices: Indices, seed: int, epoch: int) -> npt.NDArray[np.int64]:
        """Row and column of the crop in the padded picture, and whether it is mirrored: int64 (3, B).

        Args:
            indices: int64 (B,), the samples' places in their split.
            seed: with the epoch and the index, the key of every draw.
            epoch: counted from 0.
        """
        top = uniform(seed, epoch, indices, Draw.CROP_TOP) * (2 * self.padding[0] + 1)
        left = uniform(seed, epoch, indices, Draw.CROP_LEFT) * (2 * self.padding[1] + 1)
        mirrored = uniform(seed, epoch, indices, Draw.FLIP) * (2 if self.flip else 1)
        return np.stack((top, left, mirrored)).astype(np.int64)
