"""The covering arrays of `softbench.conformance.factors`, made by a library and kept in a file.

``python -m softbench.conformance.covering --write`` makes them anew (needs covertable, which is in the ``kit`` extra);
without an option it says what they cover. Judging a backend only reads them.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from softbench.conformance.factors import ARRAYS, FACTORS, Array

__all__ = ["PATH", "coverage", "levels_of", "main", "rows", "written"]

PATH: Final = Path(__file__).with_name("covering_arrays.txt")

_HEAD: Final = "# Written by `python -m softbench.conformance.covering --write`; do not edit. Numbers of levels.\n"


@functools.cache
def rows(name: str) -> tuple[dict[str, str], ...]:
    """The rows of an array: a level of each of its factors."""
    factors = ARRAYS[name].factors
    levels = [levels_of(name, factor) for factor in factors]
    return tuple(
        {factor: levels[i][int(number)] for i, (factor, number) in enumerate(zip(factors, line.split(), strict=True))}
        for line in _sections()[name]
    )


def levels_of(name: str, factor: str) -> tuple[str, ...]:
    """The levels that a factor has in an array."""
    return ARRAYS[name].levels.get(factor, FACTORS[factor])


@functools.cache
def _sections() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in PATH.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            found[line.strip("[]")] = current = []
        elif line and not line.startswith("#"):
            current.append(line)
    return found


def coverage(name: str) -> dict[int, tuple[int, int]]:
    """How many pairs and triples of levels an array has to meet, and how many it meets, counted anew.

    Returns
    -------
    dict
        By strength, 2 and 3: the number met and the number that can be.
    """
    array, made = ARRAYS[name], rows(name)
    found = {}
    for strength, factors in ((2, array.factors), (3, array.triples)):
        met = due = 0
        for chosen in itertools.combinations(factors, strength):
            wanted = set(_allowed(array, name, chosen))
            seen = {tuple(row[factor] for factor in chosen) for row in made}
            met, due = met + len(wanted & seen), due + len(wanted)
        found[strength] = met, due
    return found


def _allowed(array: Array, name: str, chosen: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The combinations of levels of these factors that are not forbidden."""
    for levels in itertools.product(*(levels_of(name, factor) for factor in chosen)):
        if _is_allowed(array, dict(zip(chosen, levels, strict=True))):
            yield levels


def _is_allowed(array: Array, row: dict[str, str]) -> bool:
    return not any(row.get(a) in bad_a and row.get(b) in bad_b for (a, bad_a), (b, bad_b) in array.forbidden)


def _make(name: str) -> list[dict[str, str]]:
    import covertable

    array = ARRAYS[name]
    constraints = [
        {"operator": "not", "condition": {"operator": "and", "conditions": [_is(a, bad_a), _is(b, bad_b)]}}
        for (a, bad_a), (b, bad_b) in array.forbidden
    ]
    made: list[dict[str, str]] = covertable.make(
        {factor: list(levels_of(name, factor)) for factor in array.factors},
        strength=2,
        sub_models=[{"fields": list(array.triples), "strength": 3}],
        constraints=constraints,
    )
    return _spread(name, made)


def _spread(name: str, made: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows with other levels where any would do: the library takes the first level there, always."""
    array = ARRAYS[name]
    groups = [*itertools.combinations(array.factors, 2), *itertools.combinations(array.triples, 3)]
    by_factor = {factor: [group for group in groups if factor in group] for factor in array.factors}
    met = Counter((group, tuple(row[f] for f in group)) for row in made for group in groups)
    rng = random.Random(name)
    for row in made:
        for factor in rng.sample(array.factors, len(array.factors)):
            mine = by_factor[factor]
            if any(met[group, tuple(row[f] for f in group)] == 1 for group in mine):
                continue
            changed = {**row, factor: rng.choice(levels_of(name, factor))}
            if _is_allowed(array, changed):
                met.subtract((group, tuple(row[f] for f in group)) for group in mine)
                row[factor] = changed[factor]
                met.update((group, tuple(row[f] for f in group)) for group in mine)
    return made


def _is(factor: str, levels: tuple[str, ...]) -> dict[str, Any]:
    return {"operator": "in", "left": factor, "values": list(levels)}


def written(name: str) -> str:
    """The section of an array in the file, made anew."""
    factors = ARRAYS[name].factors
    numbers = sorted([levels_of(name, f).index(row[f]) for f in factors] for row in _make(name))
    return "".join([f"\n[{name}]\n# {', '.join(factors)}\n", *(" ".join(map(str, line)) + "\n" for line in numbers)])


def main(arguments: list[str] | None = None) -> int:
    """Say what is covered, after making the arrays anew with ``--write``; exit status 1 if something is not."""
    parser = argparse.ArgumentParser(prog="python -m softbench.conformance.covering", description=__doc__)
    parser.add_argument("--write", action="store_true", help="make the arrays anew: under a minute")
    if parser.parse_args(arguments).write:
        PATH.write_text(_HEAD + "".join(map(written, ARRAYS)), encoding="utf-8")
    complete = True
    for name, array in ARRAYS.items():
        found = coverage(name)
        complete &= all(met == due for met, due in found.values())
        words = {2: "pairs", 3: "triples"}
        counts = ", ".join(f"{met} of {due} {words[strength]}" for strength, (met, due) in found.items())
        print(f"{name}: {len(rows(name))} rows, {counts} ({array.why})")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
