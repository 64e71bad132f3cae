"""What the rows say in plain words, in at most three sentences. The computing is ``recommend``'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench import numbers
from bench.experiment import Cell
from bench.reporting.loading import COST
from bench.reporting.recommend import Advice, Aim, Fed, advise, candidates, feeds, fewest_workers, most_cost
from bench.reporting.summary import ENOUGH, Row, grouped
from bench.reporting.wording import labels, ways
from bench.runs import mean
from bench.stats import minus_one

_AIMED = {"speed": "speed", "disk": "little disk", "memory": "little memory"}


def verdict(rows: Sequence[Row], names: Mapping[Cell, str]) -> tuple[str, ...]:
    """The sentences below the first table: what the format costs, when it matters, what to take.

    Args:
        rows: of a whole experiment.
        names: of its ways of loading.
    """
    groups = grouped(rows)
    trained = [group for group in groups if group[0].cell.mode == "train" and most_cost(group) is not None]
    loaded = [group for group in groups if group[0].cell.mode == "load" and candidates(group)]
    if not trained and not loaded:
        return ("No storage format ran here, or all did other work than was asked for: there is no verdict.",)
    runs = max(row.runs for row in rows)
    if runs < 2:
        return ("One round has no intervals, so nothing is decided: run with --rounds 3 or more.",)
    found = [_costs(trained, names)] if trained else []
    few = "Two rounds are too few to name the fastest: run with --rounds 3 or more."
    return (*found, *_when(loaded, names), _take(trained or loaded) if runs >= ENOUGH else few)


def _costs(trained: Sequence[Sequence[Row]], names: Mapping[Cell, str]) -> str:
    """What the format costs the trainings: all of them, or where it matters the one that it costs most."""
    ordered = sorted(trained, key=lambda group: most_cost(group) or 0.0)
    worst = [row for row in candidates(ordered[-1]) if row.held.cost]
    first, last, most = worst[0], worst[-1], most_cost(worst) or 0.0
    where = f"{last.cell.model} on {last.dataset}"
    if most < COST:
        much = f"Whatever the format, training here loses at most {numbers.percent(most)} of an epoch to loading"
        return f"{much} ({where}, {names[last.cell]}): choose by disk space and convenience."
    least = numbers.percent(first.held.cost.mean if first.held.cost else None)
    speed = numbers.rate(first.speed_alone)
    text = f"{where}, which trains {speed} images/s, loses {least} of an epoch with {names[first.cell]}"
    text += f" and {numbers.percent(most)} with {names[last.cell]}"
    costs: dict[str, float] = {}  # of each model, over the data sets
    for group in ordered:
        model = str(group[0].cell.model)
        costs[model] = max(costs.get(model, 0.0), most_cost(group) or 0.0)
    free = [model for model, cost in costs.items() if cost < COST]
    if free:
        text += f"; {_listed(free)} at most {numbers.percent(max(costs[model] for model in free))} with any"
    return f"{text}."


def _when(loaded: Sequence[Sequence[Row]], names: Mapping[Cell, str]) -> list[str]:
    """From which speed of training on a format matters, by data set: each format by its fastest way of loading."""
    fastest: dict[str, dict[str, Row]] = {}
    for row in (row for group in loaded for row in candidates(group) if row.break_even and row.cell.cache == "warm"):
        formats = fastest.setdefault(row.dataset, {})
        kept = formats.get(row.cell.backend)
        if kept is None or (kept.break_even or 0.0) < (row.break_even or 0.0):
            formats[row.cell.backend] = row
    parts = []
    for dataset, formats in fastest.items():
        rows = sorted(formats.values(), key=lambda row: row.break_even or 0.0)
        if len(rows) > 1:
            low, high = (numbers.rate(row.break_even) for row in (rows[0], rows[-1]))
            parts.append(f"{low} images/s from any format and {high} from {names[rows[-1].cell]} ({dataset})")
    return [f"Loading costs under {100 * COST:g} % of an epoch at up to {', '.join(parts)}."] if parts else []


def _take(groups: Sequence[Sequence[Row]]) -> str:
    """What is the fastest, or not told from it, wherever it ran, from a cold cache and a warm one."""
    warm = [[replace(row, cell=row.cell.model_copy(update={"cache": "warm"})) for row in group] for group in groups]
    names = ways([row for group in warm for row in group])
    best = dict.fromkeys(names[row.cell] for group in warm for row in group if row.best)
    good = [{names[row.cell] for row in candidates(group) if row.best or row.tied_best} for group in warm]
    everywhere = [name for name in dict.fromkeys(names.values()) if all(name in each for each in good)]
    if everywhere:
        return f"The fastest everywhere, or not told from it: {_listed(everywhere)}."
    return f"No format is the fastest everywhere; {_listed(list(best))} each are somewhere (*)."


def recommendation(rows: Sequence[Row], aim: Aim) -> list[str]:
    """What to use of one group under an aim, and what speaks for it: a sentence or two a line."""
    advice, names = advise(rows, aim), labels(row.cell for row in rows)
    formats = candidates(rows)
    if not formats:
        return ["No storage format ran here, or all did other work than was asked for."]
    if advice.chosen is None:
        return [f"No record says how much {_AIMED[aim].removeprefix('little ')} a storage format takes here."]
    if aim != "disk" and advice.chosen.runs < ENOUGH:
        few = "Two runs are too few to name the best" if advice.chosen.runs == 2 else "One run decides nothing"
        return [f"{few}; {names[formats[0].cell]} was the fastest."]
    cost = most_cost(rows)
    costs = f"No format costs training more than {numbers.percent(cost)} of an epoch." if (cost or 1.0) < COST else ""
    lines = [costs, _use(advice, names), _lost(advice, names), _workers(advice), _left_out(rows, names)]
    return [line for line in lines if line]


def for_training(rows: Sequence[Row], names: Mapping[Cell, str], train_speed: float) -> list[str]:
    """What feeds a training of ``train_speed`` images a second, on a GPU that is not here, with the fewest workers."""
    found = feeds(rows, train_speed)
    if not found:
        return ["No way of loading was measured by itself here: run an experiment with mode load."]
    speed = numbers.rate(train_speed)
    enough = fewest_workers(found)
    if not enough:
        nearest = f"{_described(found[0], names)}, costs {numbers.percent(found[0].cost)} of an epoch"
        return [f"Nothing measured here feeds {speed} images/s: the nearest, {nearest}."]
    under = f"{100 * COST:g} %"
    lines = [f"These cost a training of {speed} images/s under {under} of an epoch, each with as few workers as are enough:"]
    lines += [f"  {_described(each, names)}: {numbers.percent(each.cost)}" for each in enough]
    short = dict.fromkeys(each.row.cell.backend for each in found)
    slow = [name for name in short if name not in {each.row.cell.backend for each in enough}]
    return [*lines, *([f"Too slow for it: {_listed(slow)}."] if slow else [])]


def _described(each: Fed, names: Mapping[Cell, str]) -> str:
    cell = each.row.cell
    by = f"{each.workers} {'thread' if cell.engine == 'threads' else 'worker'}{'' if each.workers == 1 else 's'}"
    return f"{names[cell]}, {by}, {numbers.rate(each.row.load_images_per_second)} images/s by itself"


def _left_out(rows: Sequence[Row], names: Mapping[Cell, str]) -> str:
    apart = [row for row in rows if row.epoch is not None and not row.bound and not row.equal_work]
    declared = [names[row.cell] for row in apart if row.declared]
    unequal = [names[row.cell] for row in apart if not row.declared]
    why = (("unequal work", unequal), ("declared differences", declared))
    return " ".join(f"Left out, because of {reason}: {', '.join(found)}." for reason, found in why if found)


def _use(advice: Advice, names: Mapping[Cell, str]) -> str:
    assert advice.chosen is not None
    others = [names[row.cell] for row in advice.equals]
    equal = f"; {_listed(others)} {'is its equal' if len(others) == 1 else 'are its equals'}" if others else ""
    aim = "" if advice.aim == "speed" else f" and {_AIMED[advice.aim]}"
    return f"For this data and machine{aim} use {names[advice.chosen.cell]}{_why(advice)}{equal}."


def _why(advice: Advice) -> str:
    """What made it the choice."""
    assert advice.chosen is not None
    if advice.aim == "disk":
        return f" ({numbers.mebibytes(advice.chosen.store_bytes)})"
    if advice.aim == "memory":
        return f" ({numbers.mebibytes(round(mean(advice.chosen.pss_bytes.values()) or 0))} of the run's processes)"
    return (
        f" ({numbers.rate(advice.chosen.load_images_per_second)} images/s by itself)"
        if advice.chosen.load_images_per_second
        else ""
    )


def _lost(advice: Advice, names: Mapping[Cell, str]) -> str:
    if advice.next_best is None or advice.loss is None:
        return ""
    loading = "loading time" if advice.next_best.held.time else "time"
    what = {"speed": loading, "disk": "disk", "memory": "memory"}[advice.aim]
    return (
        f"The next best, {names[advice.next_best.cell]}, needs {numbers.percent_interval(minus_one(advice.loss))} more {what}."
    )


def _workers(advice: Advice) -> str:
    if advice.workers is None:
        return ""
    return f"{advice.workers} worker{'' if advice.workers == 1 else 's'} are enough: more are not told apart from it."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
