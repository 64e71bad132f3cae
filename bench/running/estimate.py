"""About how long an experiment takes, before anything is measured."""

from __future__ import annotations

from bench.experiment import Cell, Experiment
from bench.running.held import ALONE_STEPS
from loaders.registry import availability
from train.protocol import protocol
from train.registry import ModelEntry, entry

MEASURED_CORES = 2  # of the speeds in ``train.registry``
GPU_LIKE = "resnet20"  # models that were not timed on a GPU are taken to gain as much by it as this one
EVALUATION_SPEED = 3.0  # times as fast as training
LOADING = 20_000  # images/s, at worst
LOADING_GPU_SECONDS = 1.0  # there, formats load so fast that waking up the GPU and filling a unit of time take most of it
START_SECONDS = {"cpu": 1.0, "cuda": 4.0}
VALIDATION_IMAGES = 10_000
ALL_IMAGES = 50_000


def seconds(experiment: Experiment, cores: int, device: str = "cpu") -> float:
    """Seconds of all runs of backends that are available; packing is not counted."""
    names = {cell.backend_name for cell in experiment.cells}
    # What wants a GPU is asked for on a machine that has none, too.
    there = {name for name in names if device == "cuda" or availability(name).ok}
    cells = [cell for cell in experiment.cells if cell.backend_name in there]
    return experiment.rounds * sum(_cell_seconds(cell, cores, device) for cell in cells)


def _cell_seconds(cell: Cell, cores: int, device: str) -> float:
    recipe = protocol(cell.protocol)
    images = (cell.limit or ALL_IMAGES) * recipe.epochs
    if cell.model is None:
        return START_SECONDS[device] + (images / LOADING if device == "cpu" else LOADING_GPU_SECONDS)
    rate = _gpu_rate(entry(cell.model)) if device == "cuda" else entry(cell.model).speed * cores / MEASURED_CORES
    evaluated, alone = 0, 0
    if cell.mode == "train":  # after each epoch the model trains alone, which is no more than another epoch
        evaluated = recipe.val_limit or VALIDATION_IMAGES
        alone = min(images, recipe.epochs * ALONE_STEPS * recipe.batch_size)
    return START_SECONDS[device] + (images + alone) / rate + evaluated / (rate * EVALUATION_SPEED)


def _gpu_rate(model: ModelEntry) -> float:
    like = entry(GPU_LIKE)
    return model.gpu_speed or (like.gpu_speed or like.speed) * model.speed / like.speed
