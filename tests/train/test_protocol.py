"""The recipes are the papers', and can't change unseen."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch

from datasets.errors import UnknownName
from train.protocol import PROTOCOLS, Protocol, protocol

OTHER: dict[str, Any] = {
    "schedule": "multistep",
    "milestones": (0.4,),
    "nesterov": False,
    "flip": False,
    "val_limit": 7,
    "precision": "bfloat16",
    "compiled": True,
    "graphed": True,
    "augmented_load": True,
    "loss": "hinge",
}


@pytest.mark.parametrize("field", sorted(set(Protocol.model_fields) - {"name", "description"}))
def test_digest_changes_with_every_value(field: str) -> None:
    """Two protocols with the same digest train alike: no value is left out of it."""
    thesis = protocol("thesis")
    value = OTHER[field] if field in OTHER else getattr(thesis, field) * 2
    assert thesis.model_copy(update={field: value}).digest != thesis.digest


def test_digest_is_of_the_recipe_alone() -> None:
    """The same recipe under another name, or in better words, keeps its digest."""
    thesis = protocol("thesis")
    assert thesis.model_copy(update={"name": "other", "description": "other"}).digest == thesis.digest


def test_every_named_protocol_is_valid_sorted_and_its_own() -> None:
    """What ships passes its own checks, under its own name, and no two are the same recipe."""
    assert list(PROTOCOLS) == sorted(PROTOCOLS)
    for name, each in PROTOCOLS.items():
        assert Protocol.model_validate(each.model_dump()) == each
        assert each.name == name
    assert len({each.digest for each in PROTOCOLS.values()}) == len(PROTOCOLS)


def test_protocols_are_frozen() -> None:
    """A recipe can't be changed after it was made."""
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        protocol("thesis").epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "step", "steps", "rate"),
    [
        # He et al. 2016, section 4.2, on CIFAR-10's 391 batches: 0.1, then a tenth from 32k and from 48k of 64k.
        ("he2016", 0, 164 * 391, 0.1),
        ("he2016", 32_000, 164 * 391, 0.1),
        ("he2016", 32_062, 164 * 391, 0.01),
        ("he2016", 48_000, 164 * 391, 0.01),
        ("he2016", 48_093, 164 * 391, 0.001),
        ("he2016", 64_123, 164 * 391, 0.001),
        # Huang et al. 2017, section 4.2, on CIFAR-10's 782 batches: the last steps of epochs 150 and 225, and the next.
        ("huang2017", 0, 300 * 782, 0.1),
        ("huang2017", 150 * 782 - 1, 300 * 782, 0.1),
        ("huang2017", 150 * 782, 300 * 782, 0.01),
        ("huang2017", 225 * 782 - 1, 300 * 782, 0.01),
        ("huang2017", 225 * 782, 300 * 782, 0.001),
        # One cycle: a 25th at the start, the peak where three tenths are done, next to nothing at the end and after it.
        ("thesis", 0, 1000, 0.004),
        ("thesis", 299, 1000, 0.1),
        ("thesis", 999, 1000, 4e-7),
        ("thesis", 5000, 1000, 4e-7),
        ("thesis-cpu", 299, 1000, 0.1),
        ("quick", 0, 12, 0.004),
        ("quick", 11, 12, 4e-7),
    ],
)
def test_rates_at_documented_points(name: str, step: int, steps: int, rate: float) -> None:
    """The learning rate is what the protocol's source says, where it says it."""
    assert protocol(name).rate(step, steps) == pytest.approx(rate)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 12, 40])
@pytest.mark.parametrize("name", ["he2016", "thesis"])
def test_schedules_are_those_of_torch(name: str, steps: int) -> None:
    """Step by step, the rates are those of torch's own schedulers, however short the training."""
    each = protocol(name)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=each.learning_rate)
    scheduler: torch.optim.lr_scheduler.LRScheduler
    if each.schedule == "one_cycle":
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimiser, each.learning_rate, total_steps=steps, cycle_momentum=False)
    else:
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimiser, [-(-steps // 2), -(-3 * steps // 4)])
    for step in range(steps):
        assert each.rate(step, steps) == pytest.approx(scheduler.get_last_lr()[0])
        if step < steps - 1:
            with warnings.catch_warnings(action="ignore"):
                scheduler.step()


def test_rates_do_not_fail_where_the_rise_is_a_single_step() -> None:
    """A training so short that its peak is its first step starts at the peak."""
    assert protocol("thesis").model_copy(update={"rise": 0.25}).rate(0, 4) == 0.1


@pytest.mark.parametrize(("size", "padding"), [((32, 32), (4, 4)), ((64, 64), (8, 8)), ((28, 44), (3, 5)), ((6, 6), (0, 0))])
def test_padding_is_the_papers_share_of_the_picture(size: tuple[int, int], padding: tuple[int, int]) -> None:
    """Four pixels at 32, as both papers pad, and the same share of other sizes."""
    assert protocol("he2016").padding(size) == padding


@pytest.mark.parametrize(("images", "steps"), [(50_000, 391), (128, 1), (129, 2), (1, 1)])
def test_an_epoch_counts_its_last_batch(images: int, steps: int) -> None:
    """The last and smaller batch is a step like the others."""
    assert protocol("he2016").steps_per_epoch(images) == steps


def test_only_quick_evaluates_fewer_images() -> None:
    """Accuracy is over the whole validation set, but for the quick look."""
    assert {name: each.val_limit for name, each in PROTOCOLS.items() if each.val_limit} == {"quick": 256}


def test_all_epochs_but_the_first_are_measured() -> None:
    """``quick`` is one epoch of warming up and two that count."""
    assert protocol("quick").measured_epochs == 2


def test_unknown_protocol_names_the_nearest() -> None:
    """A slip of the pen gets the right name."""
    with pytest.raises(UnknownName, match="did you mean 'thesis'"):
        protocol("theses")


def test_the_page_on_protocols_has_them_all() -> None:
    """``docs/protocols.md`` has a row for every protocol, with its epochs, batch size and rate."""
    page = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text(encoding="utf-8")
    for name, each in PROTOCOLS.items():
        assert f"| `{name}` | {each.epochs} | {each.batch_size} | {each.learning_rate} |" in page


def test_options_name_themselves() -> None:
    """``thesis+bf16`` is thesis but for its precision, under its own name and digest; wrong options are refused."""
    thesis, changed = protocol("thesis"), protocol("thesis+bf16+compile")
    assert (changed.name, changed.precision, changed.compiled) == ("thesis+bf16+compile", "bfloat16", True)
    assert changed.digest != thesis.digest
    back = {"precision": "float32", "compiled": False}
    assert changed.model_copy(update=back).digest == thesis.digest
    for wrong in ("thesis+bf61", "thesi+bf16", "thesis+compile+bf16", "thesis+bf16+bf16"):
        with pytest.raises(UnknownName, match="did you mean"):
            protocol(wrong)
