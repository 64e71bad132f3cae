"""About how long an experiment takes, before anything is measured."""

from __future__ import annotations

from bench.experiment import Cell, Experiment
from loaders.registry import availability
from train.protocol import protocol

# Training on two cores of a shared virtual machine, images/s at 32 pixels; loading at worst, and a run's own start.
TRAINING = {
    "resnet8": 840,
    "resnet20": 570,
    "resnet56": 200,
    "resnet18": 60,
    "resnet50": 20,
    "densenet22": 160,
    "densenet40": 46,
    "densenet121": 15,
}
MEASURED_CORES = 2
EVALUATION_SPEED = 3.0  # times as fast as training
LOADING = 20_000
START_SECONDS = 1.0
VALIDATION_IMAGES = 10_000
ALL_IMAGES = 50_000


def seconds(experiment: Experiment, cores: int) -> float:
    """Seconds of all runs of backends that are available; packing is not counted."""
    names = {cell.backend_name for cell in experiment.cells}
    there = {name for name in names if availability(name).ok}
    return experiment.rounds * sum(_cell_seconds(cell, cores) for cell in experiment.cells if cell.backend_name in there)


def _cell_seconds(cell: Cell, cores: int) -> float:
    recipe = protocol(cell.protocol)
    images = (cell.limit or ALL_IMAGES) * recipe.epochs
    if cell.model is None:
        return START_SECONDS + images / LOADING
    rate = TRAINING[cell.model] * cores / MEASURED_CORES
    evaluated = (recipe.val_limit or VALIDATION_IMAGES) if cell.mode == "train" else 0
    return START_SECONDS + images / rate + evaluated / (rate * EVALUATION_SPEED)
