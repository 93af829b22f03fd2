"""What the studies share: arguments, and timings as text."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from softbench.measure.timing import Timing


def parser(name: str, function: object) -> argparse.ArgumentParser:
    """A parser of a study's arguments, described by the first paragraph of its function."""
    about = str(function.__doc__).split("\n\n")[0]
    return argparse.ArgumentParser(prog=f"python -m benchmarks.studies {name}", description=about)


def add_dtype(to: argparse.ArgumentParser) -> None:
    """The option ``--dtype``."""
    to.add_argument("--dtype", choices=("float32", "float64"), default="float32")


def add_seconds(to: argparse.ArgumentParser, default: float, what: str) -> None:
    """The option ``--seconds``: time for each of ``what``."""
    to.add_argument("--seconds", type=float, default=default, help=f"time per {what} (default: {default:g})")


def spread(timing: Timing, scale: float, digits: int) -> str:
    """``median (quartiles)`` in units of ``1 / scale`` seconds."""
    low, high = (scale * quartile for quartile in timing.quartiles)
    return f"{scale * timing.median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def print_beside(peer: str, timings: Mapping[str, Timing], scale: float, digits: int) -> None:
    """A line for each timing; those that a peer has too (``"PEER NAME"``) with how many times as fast they are."""
    width = max(map(len, timings))
    for name, timing in timings.items():
        other = timings.get(f"{peer} {name}") or timings.get(f"{peer} {name.removesuffix('(out=)')}")
        ratio = f"{other.median / timing.median:8.2f} x" if other else ""
        print(f"  {name:{width}}  {spread(timing, scale, digits):>28}{ratio}")
