"""Numbers as people read them: no more digits than the interval carries."""

from __future__ import annotations

import math

from bench.stats import Interval, minus_one, scaled

ABSENT = "-"
_MOST_DIGITS = 5
_DIGITS_WITHOUT_INTERVAL = 3


def decimals(value: float, half_width: float | None) -> int:
    """Places after the point: the interval's first digit is the last one shown, within 2 to 5 digits of the value."""
    size = _exponent(value)
    if not half_width:
        return max(0, _DIGITS_WITHOUT_INTERVAL - 1 - size)
    return max(0, min(max(-_exponent(half_width), 1 - size), _MOST_DIGITS - 1 - size))


def interval(found: Interval | None) -> str:
    """``0.61 [0.60, 0.63]``, or the mean alone where there is no interval."""
    if found is None:
        return ABSENT
    places = decimals(found.mean, found.half_width)
    return _bounded(found, places, "")


def plus_minus(found: Interval | None) -> str:
    """``0.61 ±0.02``, for narrow columns: the larger arm of the interval; the mean alone where there is none."""
    if found is None:
        return ABSENT
    if found.low is None or found.high is None:
        return _signed(found.mean, decimals(found.mean, None))
    arm = max(found.high - found.mean, found.mean - found.low)
    places = decimals(found.mean, arm)
    return f"{_signed(found.mean, places)} ±{_signed(max(arm, 10**-places), places)}"


def percent_interval(found: Interval | None) -> str:
    """``1.2 % [0.4, 2.0]``, of a fraction."""
    if found is None:
        return ABSENT
    percent = scaled(found, 100)
    half = percent.half_width
    places = 1 if not half else max(0, min(2, -_exponent(half)))
    return _bounded(percent, places, " %")


def slowdown(ratio: Interval | None) -> str:
    """By how much a ratio is over 1: ``1.2 % [0.4, 2.0]``; where it is not told from nothing, how large it may be at most."""
    if ratio is None or ratio.low is None or ratio.high is None:
        return ABSENT
    if ratio.low > 1:
        return percent_interval(minus_one(ratio))
    return f"under {_ceiled(100 * (ratio.high - 1))} %" if ratio.high > 1 else "none found"


def _ceiled(value: float) -> str:
    """Rounded up, to two digits below 10."""
    places = 0 if value >= 10 else 1
    return f"{math.ceil(round(value * 10**places, 6)) / 10**places:.{places}f}"


def percent(fraction: float | None) -> str:
    """``9 %``, with one place below 10."""
    if fraction is None:
        return ABSENT
    return _signed(100 * fraction, 0 if abs(fraction) >= 0.095 else 1) + " %"


def signed_percent(fraction: float) -> str:
    """``percent``, with its sign."""
    return ("+" if fraction > 0 else "") + percent(fraction)


def rate(per_second: float | None) -> str:
    """``2.6 M``, ``210 k``, ``940``."""
    if per_second is None:
        return ABSENT
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if per_second >= size * 0.9995:
            scaled = per_second / size
            return f"{scaled:.1f}{unit}" if scaled < 9.95 else f"{scaled:.0f}{unit}"
    return f"{per_second:.0f}" if per_second >= 9.95 else f"{per_second:.1f}"


def mebibytes(count: int | None) -> str:
    """``147 MiB``."""
    if count is None:
        return ABSENT
    size = count / 2**20
    return f"{size:,.0f} MiB" if size >= 9.95 else f"{size:.1f} MiB" if size >= 0.05 or not count else "< 0.1 MiB"


def plain(value: float | None, places: int) -> str:
    """A number with that many places."""
    return ABSENT if value is None else _signed(value, places)


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def _bounded(found: Interval, places: int, unit: str) -> str:
    mean = _signed(found.mean, places) + unit
    if found.low is None or found.high is None:
        return mean
    return f"{mean} [{_signed(found.low, places)}, {_signed(found.high, places)}]"


def _signed(value: float, places: int) -> str:
    """No minus before zero."""
    return f"{round(value, places) + 0.0:.{places}f}"
