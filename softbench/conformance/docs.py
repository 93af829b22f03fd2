"""docs/semantics.md, written from the contract: ``python -m softbench.conformance.docs [--check]``.

The page cannot say anything that the kit does not ask: its rows, examples and counts are those of
`softbench.conformance.contract`, its bounds those of `softbench.accuracy.gates`.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from softbench.accuracy.gates import GATES
from softbench.conformance import contract, covering
from softbench.conformance.case import ORACLE, Example, Raises, Requirement
from softbench.conformance.factors import ARRAYS, FACTORS
from softbench.conformance.failures import brief

__all__ = ["PATH", "main", "render"]

PATH: Final = Path(__file__).parents[2] / "docs" / "semantics.md"


class _Column(NamedTuple):
    """How a built-in backend is held to the contract, and what that is worth."""

    where: str
    host: bool
    """Whether the cases about arrays in host memory concern it."""
    mark: str


_COLUMNS: Final[dict[str, _Column]] = {
    "python": _Column("on the CPU, by the test suite (rows of up to 300 classes)", True, "✓"),
    "numpy": _Column("on the CPU, by the test suite", True, "✓"),
    "numba": _Column("on the CPU, by the test suite", True, "✓"),
    "numba_cuda": _Column(
        "in Numba's simulator, by the test suite (rows of up to 100 classes); on a GPU with "
        "`SOFTBENCH_REQUIRE=numba_cuda python -m pytest`",
        False,
        "sim",
    ),
    "cupy": _Column("on a machine with a GPU only: `SOFTBENCH_REQUIRE=cupy python -m pytest`", False, "GPU"),
}

_HEAD: Final = """<!-- Written by `python -m softbench.conformance.docs`; do not edit. -->
# What every function returns, for every input

Each line below is asked of every backend: by `python -m pytest`, and by `softbench check NAME` for backends of your own
([how](adding-a-backend.md)). The page is generated from the very cases that are run (`softbench/conformance/`), and a
test fails when it is stale.

"""

_EXAMPLES: Final = 8  # per row: the page is for reading, `softbench check --list` has them all


def render() -> str:
    """The page."""
    parts = [_HEAD]
    parts.append("Columns say how a backend of this project is held to the row:\n\n")
    for name, column in _COLUMNS.items():
        parts.append(f"* `{name}` ({column.mark}): {column.where}.\n")
    parts.append(
        "\nA dash: the row is about arrays in host memory and does not concern the backend. None of these backends "
        "declares a deviation. Where other people's libraries deviate from these rows, with the issues that report it: "
        "[peers](peers.md).\n"
    )
    for section, rows in contract.SECTIONS.items():
        parts.append(f"\n## {section}\n\n")
        if section == "Accuracy":
            parts.append(_gates())
        parts.append(_table(rows))
        if section == "Combinations":
            parts.append(_coverage())
        parts += [_examples(row) for row in rows if row.examples]
    total = len(contract.all_cases())
    counts = ", ".join(f"{len(contract.cases(p))} in the {p} profile" for p in ("quick", "standard", "deep"))
    parts.append(f"\n{total} cases in all: {counts}.\n")
    parts.append(_deep_alone())
    return "".join(parts)


def _deep_alone() -> str:
    """What no other profile sees."""
    lines = [
        "\nWhat the deep profile alone sees: rows of 200 000 classes; every K up to 4097, where the standard profile "
        "has those up to 520 and every 17th; threads for 25 times as long, 25 times as many sequences of calls; and "
        "these cases:\n\n"
    ]
    for row in contract.all_requirements():
        deep = [case.id.partition("/")[2] for case in row.cases() if case.profile == "deep"]
        if deep:
            more = f" and {len(deep) - 1} more" if len(deep) > 1 else ""
            lines.append(f"* `{row.id}` ({row.case}): `{deep[0]}`{more}\n")
    return "".join(lines)


def _table(rows: tuple[Requirement, ...]) -> str:
    names = list(_COLUMNS)
    lines = [
        "| case | result | id | cases | " + " | ".join(names) + " |",
        "|---|---|---|---|" + "---|" * len(names),
    ]
    for row in rows:
        cases = row.cases()
        marks = [
            column.mark if column.host or any("host" not in case.needs for case in cases) else "-"
            for column in _COLUMNS.values()
        ]
        lines.append(
            f"| {_cell(row.case)} | {_cell(row.result)} | `{row.id}` | {len(cases)} | " + " | ".join(marks) + " |"
        )
    return "\n".join(lines) + "\n"


def _gates() -> str:
    lines = [
        "Errors are componentwise, relative to the exact result, in the unit given; half precision is float16 and "
        "bfloat16.\n",
        "| quantity | unit | float64 | float32 | half | how |",
        "|---|---|---|---|---|---|",
    ]
    for name, gate in GATES.items():
        bounds = [f"{gate.bounds[dtype]:g}" for dtype in ("float64", "float32", "float16")]
        below = f" (subnormal results: {gate.subnormal:g} spacing)" if gate.subnormal is not None else ""
        lines.append(f"| {name} | {_cell(gate.unit)}{below} | " + " | ".join(bounds) + f" | {_cell(gate.advice)} |")
    return "\n".join(lines) + "\n\n"


def _coverage() -> str:
    """What the covering arrays combine, and how many combinations they meet."""
    lines = [
        "\nThe calls are the rows of covering arrays (`softbench/conformance/factors.py`): every pair of levels that "
        "can meet is in some call of the standard profile, and so is every triple of the factors named for it "
        "(`python -m softbench.conformance.covering` counts them). The quick profile takes every sixteenth row.\n",
        "| array | for | rows | pairs met | triples met | of |",
        "|---|---|---|---|---|---|",
    ]
    for name, array in ARRAYS.items():
        (pairs, all_pairs), (triples, all_triples) = covering.coverage(name).values()
        lines.append(
            f"| `{name}` | {array.why} | {len(covering.rows(name))} | {pairs} of {all_pairs} | "
            f"{triples} of {all_triples} | {', '.join(array.triples) or '-'} |"
        )
    lines += ["", "| factor | levels | in the arrays |", "|---|---|---|"]
    for factor, levels in FACTORS.items():
        where = ", ".join(f"`{name}`" for name, array in ARRAYS.items() if factor in array.factors)
        lines.append(f"| {factor} | {_some(levels)} | {where} |")
    return "\n".join(lines) + "\n"


def _some(levels: tuple[str, ...]) -> str:
    return "; ".join(levels) if len(levels) <= 12 else f"{'; '.join(levels[:5])}; ... {levels[-1]} ({len(levels)})"


def _examples(row: Requirement) -> str:
    """Some of the calls of a row with what they must return."""
    lines = [f"\n<details><summary><code>{row.id}</code>: examples</summary>\n\n```\n"]
    seen: set[str] = set()
    for example in row.examples:
        line = f"{example.text()} -> {_expected(example)}\n"
        if line not in seen and len(seen) < _EXAMPLES:
            seen.add(line)
            lines.append(line)
    lines.append("```\n\n</details>\n")
    return "".join(lines)


def _expected(example: Example) -> str:
    if example.expect is ORACLE:
        return "exact, within the gate"
    if isinstance(example.expect, Raises):
        return repr(example.expect)
    if callable(example.expect):
        return str(example.expect.__name__)
    text = brief(np.asarray(example.expect).tolist() if not _is_large(example.expect) else np.asarray(example.expect))
    return re.sub(r"np\.float64\((.*?)\)", r"\1", text)


def _is_large(value: Any) -> bool:
    array = np.asarray(value)
    return array.size > 12 or (array.size == 0 and array.ndim > 1)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or with ``--check`` say whether it is stale (exit status 1)."""
    parser = argparse.ArgumentParser(prog="python -m softbench.conformance.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if the page is stale")
    parser.add_argument("--out", type=Path, default=PATH, help="the page (default: docs/semantics.md of the checkout)")
    parsed = parser.parse_args(arguments)
    text = render()
    if parsed.check:
        stale = not parsed.out.exists() or parsed.out.read_text(encoding="utf-8") != text
        if stale:
            print(f"{parsed.out} is stale: run python -m softbench.conformance.docs", file=sys.stderr)
        return int(stale)
    parsed.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
