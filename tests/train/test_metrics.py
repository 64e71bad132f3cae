"""Accuracy and macro-F1 are those computed by hand."""

from __future__ import annotations

import pytest
import torch

from train.metrics import Scorer, Scores


def scores(predicted: list[int], labels: list[int], classes: int, batch: int = 100) -> Scores:
    scorer = Scorer(classes, torch.device("cpu"))
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), classes).float()
    for start in range(0, len(labels), batch):
        scorer.add(logits[start : start + batch], torch.tensor(labels[start : start + batch]))
    return scorer.scores()


def test_scores_are_those_computed_by_hand() -> None:
    """Three classes, six pictures, four right: F1 is 4/5, 2/3 and 1/2, and macro-F1 their mean."""
    got = scores([0, 0, 0, 1, 2, 1], [0, 0, 1, 1, 2, 2], 3)
    # Class 0: precision 2/3, recall 1. Class 1: 1/2, 1/2. Class 2: 1, 1/2.
    assert got.accuracy == pytest.approx(4 / 6)
    assert got.macro_f1 == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    assert got.images == 6


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_scores_do_not_depend_on_batches(batch: int) -> None:
    """The last, smaller batch weighs what its pictures weigh; F1 is of the whole, not a mean over batches."""
    predicted, labels = [0, 0, 0, 1, 2, 1], [0, 0, 1, 1, 2, 2]
    assert scores(predicted, labels, 3, batch) == scores(predicted, labels, 3)


def test_a_class_that_does_not_occur_is_left_out_of_macro_f1() -> None:
    """Classes that are neither a label nor a prediction say nothing about the model."""
    assert scores([0, 1], [0, 1], 200).macro_f1 == 1.0


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    """A wrong prediction of a class that never occurs costs F1: (1 + 4/5 + 0) / 3 here."""
    assert scores([0, 2, 1, 1], [0, 1, 1, 1], 4).macro_f1 == pytest.approx((1 + 4 / 5 + 0) / 3)


def test_always_the_largest_class_is_accurate_and_has_a_poor_f1() -> None:
    """What macro-F1 is for: nine of ten right, and half of the classes never found."""
    got = scores([0] * 10, [0] * 9 + [1], 2)
    assert got.accuracy == pytest.approx(0.9)
    assert got.macro_f1 == pytest.approx((18 / 19) / 2)
