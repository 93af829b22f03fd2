"""Quantities as people read them."""

from __future__ import annotations

import math

__all__ = ["bandwidth", "duration", "percent", "ratio", "size", "ulps"]


def three_digits(value: float) -> str:
    """Three significant digits without an exponent: 1.23, 12.3, 123."""
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """``12.3 us``."""
    for unit, scale in (("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * scale:
            return f"{three_digits(seconds / scale)} {unit}"
    return f"{three_digits(seconds)} s"


def size(nbytes: float) -> str:
    """``15.6 MiB``."""
    for unit, scale in (("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20)):
        if nbytes < 999.5 * scale:
            return f"{nbytes:.0f} B" if unit == "B" else f"{three_digits(nbytes / scale)} {unit}"
    return f"{three_digits(nbytes / (1 << 30))} GiB"


def bandwidth(bytes_per_second: float) -> str:
    """``12.3 GB/s``."""
    return f"{three_digits(bytes_per_second / 1e9)} GB/s"


def percent(fraction: float) -> str:
    """``41%``; one more digit below ten."""
    value = 100 * fraction
    return f"{value:.0f}%" if value >= 9.95 else f"{value:.1f}%"


def ulps(error: float) -> str:
    """``1.73``; an error beyond thousands in short form."""
    if not math.isfinite(error):
        return str(error)
    return f"{error:.2f}" if error < 100 else f"{error:.3g}"


def ratio(times: float) -> str:
    """``1.84x``: how many times as much."""
    return f"{times:,.3g}x" if times < 1000 else f"{times:,.0f}x"
