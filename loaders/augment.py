"""Cropping and mirroring of pictures of one size: what is asked for, and what is drawn for each of them.

``train.augment`` does it for every backend; a store that ``augments`` does it itself, by the same draws.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loaders.order import Draw, Indices, uniforms

DRAWN = (Draw.CROP_TOP, Draw.CROP_LEFT, Draw.FLIP)


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
        return (uniforms(seed, epoch, indices, DRAWN) * np.array(self.sides, np.float64)[:, None]).astype(np.int64)

    @property
    def sides(self) -> tuple[int, int, int]:
        """How many values each of ``DRAWN`` may have."""
        return 2 * self.padding[0] + 1, 2 * self.padding[1] + 1, 2 if self.flip else 1
