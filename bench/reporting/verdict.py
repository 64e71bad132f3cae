"""What a group of rows says in plain words, and no more than its runs can carry. The computing is ``recommend``'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench import numbers
from bench.experiment import Cell
from bench.reporting.recommend import COMPUTE_BOUND, Advice, Aim, advise, candidates
from bench.reporting.summary import Row
from bench.reporting.wording import labels, rounds_needed
from bench.runs import mean
from bench.stats import MOST_ROUNDS, minus_one

_AIMED = {"speed": "speed", "disk": "little disk", "memory": "little memory"}


def verdict(rows: Sequence[Row]) -> str:
    """The paragraph below a table: what limits training, what is fastest, what to use."""
    if rows[0].cell.mode == "limit":
        return "No storage formats, but what this machine could do at best: loading is held against it."
    advice = advise(rows, "speed")
    names = labels(row.cell for row in rows)
    if (none := _nothing(rows, advice, names)) is not None:
        return none
    best = candidates(rows)[0]
    ranking = "" if advice.few else _ranking(best, rows, names)
    parts = [_limited(best, names[best.cell]), _slowed(best, names), ranking]
    return " ".join(part for part in [*parts, _advice(advice, names), _left_out(rows, names)] if part)


def recommendation(rows: Sequence[Row], aim: Aim) -> list[str]:
    """What to use under an aim, and what speaks for it: one sentence or two a line."""
    advice = advise(rows, aim)
    names = labels(row.cell for row in rows)
    none = _nothing(rows, advice, names)
    if none is not None or advice.chosen is None:
        return [none or f"No record says how much {_AIMED[aim].removeprefix('little ')} a storage format takes here."]
    best = candidates(rows)[0]
    lines = [
        _limited(best, names[best.cell]),
        "Any format will do: none costs training more than that." if advice.any_will_do else "",
        _use(advice, names) if aim != "speed" else _advice(advice, names),
        _lost(advice, names),
        _workers(advice),
        _thin(advice) if aim != "speed" else "",
        _left_out(rows, names),
    ]
    return [line for line in lines if line]


def _nothing(rows: Sequence[Row], advice: Advice, names: Mapping[Cell, str]) -> str | None:
    """Why there is no verdict; None where there is one."""
    formats = candidates(rows)
    if not formats:
        ran = any(row.epoch is not None and not row.bound for row in rows)
        return (
            "All storage formats did unequal work, or declare it: no verdict."
            if ran
            else "No storage format ran here: no verdict."
        )
    if advice.aim != "disk" and formats[0].runs == 1:
        name = names[formats[0].cell]
        return f"One run only: {name} was the fastest in it, but one run has no interval, so nothing is decided."
    return None


def _left_out(rows: Sequence[Row], names: Mapping[Cell, str]) -> str:
    apart = [row for row in rows if row.epoch is not None and not row.bound and not row.equal_work]
    declared = [names[row.cell] for row in apart if row.declared]
    unequal = [names[row.cell] for row in apart if not row.declared]
    why = (("unequal work", unequal), ("declared differences", declared))
    return " ".join(f"Left out, because of {reason}: {', '.join(found)}." for reason, found in why if found)


def _limited(best: Row, name: str) -> str:
    if best.cell.mode != "train":
        return ""
    cost = best.cost
    if cost is None or cost.low is None or cost.high is None:
        return "Without paired compute runs it is not known what limits training."
    figure = f"the best loader, {name}, costs {numbers.cost(cost)} of an epoch"
    if cost.high <= 0:
        figure = f"no cost of the best loader, {name}, was found"
    waits = f"training waits {numbers.percent(best.held_up)} of an epoch for batches"
    if cost.high <= COMPUTE_BOUND:
        return f"Training is limited by the model here: {figure}; {waits}."
    if cost.low > COMPUTE_BOUND:
        return f"Training is limited by loading here: even {figure}."
    if best.held_up is not None and best.held_up <= COMPUTE_BOUND:
        return f"{waits.capitalize()}; with what loading may take from the model, {figure}."
    return f"The evidence is too thin to say what limits training: {figure}."


def _slowed(best: Row, names: Mapping[Cell, str]) -> str:
    if not best.slowed or best.step_ratio is None:
        return ""
    much = numbers.percent_interval(minus_one(best.step_ratio))
    return (
        f"Beside {names[best.cell]} the model's own steps take {much} longer than alone: loading and model share the machine."
    )


def _ranking(best: Row, rows: Sequence[Row], names: Mapping[Cell, str]) -> str:
    ties = [names[row.cell] + (" (RAM, a bound)" if row.bound else "") for row in rows if row.tied_best and row.equal_work]
    speed = "" if best.cell.mode == "train" else f", {numbers.rate(best.images_per_second)} images/s"
    return f"Fastest: {names[best.cell]}{speed}" + (f"; not distinguishable from it: {', '.join(ties)}." if ties else ".")


def _advice(advice: Advice, names: Mapping[Cell, str]) -> str:
    """The format to use; or why there are too few runs to say."""
    return _thin(advice) if advice.noisy or advice.few else _use(advice, names)


def _thin(advice: Advice) -> str:
    known = advice.rounds_needed is not None and advice.rounds_needed < MOST_ROUNDS
    rounds = f"of {rounds_needed(advice.rounds_needed)} rounds" if advice.rounds_needed and known else "of more rounds"
    if advice.noisy:
        more = f", or run a new experiment {rounds}" if known else ""
        return f"Runs spread over 10 % of their mean: repeat it on a quiet machine before relying on this{more}."
    return f"Two runs are too few to name the fastest: a new experiment {rounds} would tell more." if advice.few else ""


def _use(advice: Advice, names: Mapping[Cell, str]) -> str:
    assert advice.chosen is not None
    others = [names[row.cell] for row in advice.equals]
    trained = " in training" if advice.chosen.cell.mode == "train" and advice.aim == "speed" else ""
    equal = f"; {_listed(others)} {'is its equal' if len(others) == 1 else 'are its equals'}{trained}" if others else ""
    aim = "" if advice.aim == "speed" else f" and {_AIMED[advice.aim]}"
    return f"For this data and machine{aim} use {names[advice.chosen.cell]}{_why(advice)}{equal}."


def _why(advice: Advice) -> str:
    """What made it the choice, where it is not plainly the fastest."""
    assert advice.chosen is not None
    if advice.aim == "disk":
        return f" ({numbers.mebibytes(advice.chosen.store_bytes)})"
    if advice.aim == "memory":
        return f" ({numbers.mebibytes(round(mean(advice.chosen.pss_bytes.values()) or 0))} of the run's processes)"
    return ", which of these loads fastest by itself" if any(_faster(row, advice.chosen) for row in advice.equals) else ""


def _faster(row: Row, other: Row) -> bool:
    return row.epoch is not None and other.epoch is not None and row.epoch.mean < other.epoch.mean


def _lost(advice: Advice, names: Mapping[Cell, str]) -> str:
    """What the next best would need more, and what the choice itself gives away."""
    parts = []
    if advice.next_best is not None and advice.loss is not None:
        what = {"speed": "time", "disk": "disk", "memory": "memory"}[advice.aim]
        more = numbers.percent_interval(minus_one(advice.loss))
        parts.append(f"The next best, {names[advice.next_best.cell]}, needs {more} more {what}.")
    if advice.aim != "speed" and advice.slower is not None:
        parts.append(
            f"An epoch takes {numbers.percent_interval(minus_one(advice.slower))} longer with it than with the fastest."
        )
    return " ".join(parts)


def _workers(advice: Advice) -> str:
    if advice.workers is None:
        return ""
    return f"{advice.workers} worker{'' if advice.workers == 1 else 's'} are enough: more are not distinguishable from it."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
