"""Accuracy and macro-F1, by torchmetrics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score


@dataclass(frozen=True)
class Scores:
    """What a model reached on the pictures it was shown.

    Attributes:
        accuracy: share of pictures whose most likely class is their label, in [0, 1].
        macro_f1: mean over classes of each class's F1, in [0, 1]. A class that is neither a label nor a prediction is
            left out of the mean; one that is predicted but never a label counts as 0 (as torchmetrics defines it).
        images: pictures shown.
    """

    accuracy: float
    macro_f1: float
    images: int


class Scorer:
    """Gathers batches of predictions; keeps counts only, on ``device``."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self._accuracy = MulticlassAccuracy(classes, average="micro").to(device)
        self._f1 = MulticlassF1Score(classes, average="macro").to(device)
        self._images = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits float32 (B, classes), labels int64 (B,)."""
        self._accuracy.update(logits, labels)
        self._f1.update(logits, labels)
        self._images += len(labels)

    def scores(self) -> Scores:
        """The scores of everything added."""
        return Scores(float(self._accuracy.compute()), float(self._f1.compute()), self._images)
