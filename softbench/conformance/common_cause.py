"""What calls that fail share, and calls that pass have not: the first line of a diagnosis."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from softbench.conformance.factors import FACTORS

__all__ = ["Sized", "common_cause"]


class Sized(Protocol):
    """What was called."""

    @property
    def n(self) -> int:
        """Rows."""

    @property
    def k(self) -> int:
        """Classes."""

    @property
    def levels(self) -> Mapping[str, str]:
        """Levels by factor, of `softbench.conformance.factors.FACTORS`."""


_MODULI: Final = (2, 4, 8, 16, 32, 64, 128, 256)
_LIMITS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


def common_cause(op: str, failed: Sequence[Sized], passed: Sequence[Sized], what: str = "combinations") -> str:
    """What calls that fail share and calls that pass have not, in words: the simplest such condition, if there is one.

    Parameters
    ----------
    op
        The function.
    failed, passed
        What was called, at least one that failed.
    what
        What these are, in the plural.
    """
    summary = f"{op}: {len(failed)} of {len(failed) + len(passed)} {what} fail"
    sizes_only = not failed[0].levels
    sizes = _sizes(failed, passed) if sizes_only or len(failed) <= len(passed) else ""
    if len(failed) < 3:
        return summary + (sizes if sizes_only else f"; this one: {_levels(failed[0])}")
    if not passed:
        return summary
    conditions = [(text, holds) for text, holds in _conditions(failed) if all(map(holds, failed))]
    masks = [(text, _mask(holds, passed)) for text, holds in conditions]
    masks = [(text, mask) for text, mask in masks if mask != (1 << len(passed)) - 1]
    for size in (1, 2, 3):
        for chosen in itertools.combinations(masks, size):
            if functools.reduce(lambda a, b: a & b, (mask for _, mask in chosen)) == 0:
                shared = " and ".join(text for text, _ in chosen)
                return f"{summary}: all that have {shared}{sizes if sizes_only else ''}"
    return summary + sizes


def _mask(holds: Callable[[Sized], bool], problems: Sequence[Sized]) -> int:
    return sum(1 << i for i, problem in enumerate(problems) if holds(problem))


def _conditions(failed: Sequence[Sized]) -> Iterator[tuple[str, Callable[[Sized], bool]]]:
    """Conditions that hold for the first failure, the plainest first."""
    first = failed[0]
    for factor, level in first.levels.items():
        if factor not in ("dtype", "any dtype", "K mod 64"):
            yield f"{factor}={level}", lambda p, f=factor, v=level: p.levels.get(f) == v  # type: ignore[misc]
            others = [v for v in FACTORS[factor] if all(p.levels.get(factor) != v for p in failed)]
            for other in others if len(others) <= 2 else []:
                yield f"{factor} not {other}", lambda p, f=factor, v=other: p.levels.get(f) != v  # type: ignore[misc]
    for size in ("k", "n"):
        value = getattr(first, size)
        name = size.upper()
        yield f"{name} = {value}", lambda p, s=size, v=value: getattr(p, s) == v  # type: ignore[misc]
        for limit in _LIMITS:
            if value > limit:
                yield f"{name} > {limit}", lambda p, s=size, v=limit: getattr(p, s) > v  # type: ignore[misc]
            else:
                yield f"{name} <= {limit}", lambda p, s=size, v=limit: getattr(p, s) <= v  # type: ignore[misc]
        for m in _MODULI:
            rest = value % m
            yield f"{name} % {m} = {rest}", lambda p, s=size, m=m, r=rest: getattr(p, s) % m == r  # type: ignore[misc]
            yield f"{name} % {m} not 0", lambda p, s=size, m=m: getattr(p, s) % m != 0  # type: ignore[misc]


def _levels(problem: Sized) -> str:
    return ", ".join(
        f"{factor}={level}" for factor, level in problem.levels.items() if level not in ("none", "C", "True")
    )


def _sizes(failed: Sequence[Sized], passed: Sequence[Sized]) -> str:
    """The numbers of classes that fail, and those that pass only."""
    bad = sorted({problem.k for problem in failed})
    good = sorted({problem.k for problem in passed} - set(bad))
    return f"; K = {_few(bad)} fail, K = {_few(good)} pass" if good else ""


def _few(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
