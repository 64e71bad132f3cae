"""Pictures of differing sizes, cropped as torchvision's users do: for peers that own decoding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchvision import transforms

from loaders.manifest import Content
from loaders.sizing import EVALUATION_MARGIN

if TYPE_CHECKING:
    from loaders.engine import Plan

OWN_DRAWS = "pictures of differing sizes are cropped by torchvision's transforms, with random numbers of their own"


def steps(content: Content, plan: Plan) -> list[Any]:
    """Transforms of a Pillow picture to the size of a batch; none where all pictures have one size.

    Source: torchvision's references for classification: RandomResizedCrop in training, Resize and CenterCrop else.
    """
    if content.shape is not None:
        return []
    size = plan.image_size
    if plan.training:
        return [transforms.RandomResizedCrop((size, size))]
    return [transforms.Resize(round(size * EVALUATION_MARGIN)), transforms.CenterCrop(size)]
