"""A calibration in words: ``calibration.md``."""

from __future__ import annotations

from collections.abc import Sequence

from bench import numbers, stats
from bench.calibrating import figures
from bench.calibrating.calibration import PLANTED, Calibration
from bench.calibrating.figures import Alarms, Found
from bench.stats import Interval

_CODES = {"load": "load (the worst case: an epoch of short batches)", "train": "train (resnet8, 512 images an epoch)"}


def to_markdown(what: Calibration) -> str:
    """Every figure with its interval, and whether it is as it should be."""
    equal = figures.alarms(what.runs)
    kept = {run.planted for run in what.runs if run.planted}
    slowed = [figures.found(what.runs, part) for part in PLANTED if part in kept]
    parts = [_about(what, equal), *_equal(equal), *_slowed(slowed, equal), *_harness(what), *_verdict(what)]
    return "\n".join(parts) + "\n"


def _about(what: Calibration, equal: Alarms) -> str:
    place = [str(what.environment.get(key) or "") for key in ("machine", "kernel")]
    threads, torch = what.environment.get("threads"), what.environment.get("torch")
    place += [f"{threads} threads" if threads else "", f"torch {torch}" if torch else ""]
    shortest = min(run.timed_seconds for run in what.runs)
    disturbed = sum(run.disturbed for run in what.runs)
    reading = sum(run.wait_share for run in what.runs) / len(what.runs)
    experiments = len({run.experiment for run in what.runs})
    lines = [
        "# Calibration",
        "",
        " · ".join(filter(None, place)),
        "",
        f"Made by `loadstone calibrate`: {experiments} experiments of {equal.rounds} rounds, {len(what.runs):,} runs, each "
        "in a process of its own, in random order within its round. A run trains the model `linear` on 4,000 synthetic "
        "JPEG pictures of 32 x 32 from `mmap`, and its figure is the loading time, as in tables. The shortest epoch took "
        f"{1000 * shortest:.0f} ms, of which training waits {_percent(reading)}. Runs marked as disturbed: "
        f"{disturbed}; they are counted like all others. One round's ratio of equal cells spreads by "
        f"{numbers.percent(equal.spread)} (standard deviation).",
        "",
    ]
    return "\n".join(lines)


def _equal(found: Alarms) -> list[str]:
    family = f"any two of an experiment's {found.cells} equal cells ({found.cells * (found.cells - 1) // 2} pairs)"
    rows = [
        ("disjoint pairs, each by itself", found.pairs),
        (f"{family}, each by itself", found.families),
        (f"{family}, corrected as in tables", found.corrected),
    ]
    return [
        "## The same backend under two names",
        "",
        "| called different at 5 % | how many | share | exact 95 % interval |",
        "|---|--:|--:|---|",
        *(f"| {name} | {_count(share)} | {_percent(share.mean)} | {_bounds(share)} |" for name, share in rows),
        "",
        f"Over all disjoint pairs the ratio of equal cells is {numbers.interval(found.ratio)}.",
        "",
    ]


def _slowed(found: Sequence[Found], equal: Alarms) -> list[str]:
    if not found:
        return []
    return [
        "## A planted slow-down of loading",
        "",
        "Each read took so much longer, by waiting busily.",
        "",
        f"| planted | found in {equal.rounds} rounds | exact 95 % interval | estimate | bias | RMSE | its interval holds it |",
        "|--:|--:|---|--:|--:|--:|--:|",
        *(_slow_row(one) for one in found),
        "",
        "Found: the 95 % interval of the ratio to an equal cell lies above 1. Estimate and bias are means over experiments; "
        "they, and the root mean square error, are in per cent of the loading time.",
        "",
    ]


def _slow_row(one: Found) -> str:
    cells = [
        f"{100 * one.planted:g} %",
        _count(one.share),
        _bounds(one.share),
        numbers.percent_interval(one.estimate),
        f"{100 * (one.estimate.mean - one.planted):+.2f}",
        f"{100 * one.rmse:.2f}",
        _count(one.coverage),
    ]
    return f"| {' | '.join(cells)} |"


def _harness(what: Calibration) -> list[str]:
    costs = [(mode, figures.cost(what.harness, mode)) for mode in _CODES]
    rows = [
        f"| {_CODES[mode]} | {ratio.n} | {numbers.percent_interval(stats.minus_one(ratio))} |" for mode, ratio in costs if ratio
    ]
    if not rows:
        return []
    return [
        "## What the harness costs",
        "",
        "An epoch under the harness, over the same loop written by hand; each in a process of its own, in pairs, the order "
        "of each drawn by chance.",
        "",
        "| mode | pairs | cost, of an epoch [95 % interval] |",
        "|---|--:|---|",
        *rows,
        "",
    ]


def _verdict(what: Calibration) -> list[str]:
    short = figures.short(what)
    if short:
        return [f"**Fell short: {'; '.join(short)}.**"]
    cost = f"the harness is measured to cost under {_percent(figures.COST_LIMIT)} of an epoch"
    sure = "" if figures.cost_is_sure(what.harness) else ", though its interval reaches beyond"
    return [f"**The interval of the false alarms holds 5 %; {cost}{sure}.**"]


def _count(share: Interval) -> str:
    return f"{round(share.mean * share.n)} of {share.n}"


def _bounds(share: Interval) -> str:
    assert share.low is not None
    assert share.high is not None
    return f"{_percent(share.low)} to {_percent(share.high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
