"""Wrong kernels by machine: the numpy and numba backends with one expression changed, judged by the kit alone.

python tests/mutation/kernels.py --list             # the sample
python tests/mutation/kernels.py                    # judge what has no verdict yet; an interrupted run goes on
python tests/mutation/kernels.py --quick            # by the quick profile alone; the next run goes on from there
python tests/mutation/kernels.py --results          # score and survivors, as in docs/mutation.md

Each of loop bounds, offsets, comparisons, constants and operators is a place that can be changed. The sample are the
mutants whose names have the smallest hashes with `SEED`: a change of the kernels replaces those mutants that it touches
and leaves the others in the sample, with their verdicts. A mutant is a copy of the backends with its change, first on
the path of a process that runs ``softbench check`` on it, as far as the first case that fails: the quick profile, and
the standard one where that passes. No other test is asked.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "backends" / "softbench_backends"
VERDICTS: Final = Path(__file__).with_name("kernels.json")

SEED: Final = 20_251_128


class Sample(NamedTuple):
    """What is changed, and who judges."""

    backend: str
    modules: tuple[str, ...]
    """With ``*``: all that fit."""
    size: int
    """How many mutants are drawn from all places of all modules."""
    profiles: tuple[str, ...] = ("quick", "standard")
    rows: str = "*"
    """Rows of the contract that are asked."""


SAMPLES: Final = {
    "numpy": Sample("numpy", ("numpy.py",), 40),
    "numba": Sample(
        "numba",
        (
            "numba/elements.py", "numba/half_precision.py", "numba/lanes.py", "numba/long_row*.py", "numba/losses.py",
            "numba/reductions.py", "numba/short_rows.py", "numba/soft_rows.py", "numba/split_rows.py",
            "numba/strided.py", "numba/transposition.py",
        ),
        16,
    ),
    "numba-linear": Sample("numba", ("numba/linear_*.py",), 3, ("deep",), "linear-*"),
}  # fmt: skip
SURVIVES: Final = "survives"
LIMIT: Final = 900.0
"""Seconds that a mutant may take; one that takes longer hangs, which counts as killed."""

_SWAPS: Final[dict[type[ast.AST], type[ast.AST]]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


class Mutant(NamedTuple):
    """A changed expression."""

    path: str
    function: str
    line: str
    """The line of source that it starts in."""
    change: str
    """What it was and what it has become."""
    turn: int
    """How many changes of such a line in the function before it read the same."""

    @property
    def key(self) -> str:
        """Its name among the verdicts, which nothing but a change of its own line changes."""
        number = f" (no. {self.turn + 1})" if self.turn else ""
        return f"{self.path}, {self.function}: {self.change}{number} in: {self.line}"

    @property
    def lot(self) -> str:
        """Its place in the draw."""
        return hashlib.sha256(f"{SEED} {self.key}".encode()).hexdigest()


# -- changing ------------------------------------------------------------------------------------------


def _places(tree: ast.Module) -> Iterator[tuple[str, ast.expr, list[ast.AST]]]:
    """Expressions in functions, with what each can become. Docstrings, defaults and annotations stay."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for statement in function.body:
                for node in ast.walk(statement):
                    changed = list(_changes(node))
                    if changed:
                        yield function.name, node, changed


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """What a node can become."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield ast.Constant(node.value + 1)
        if node.value:
            yield ast.Constant(node.value - 1)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _SWAPS:
        yield ast.Compare(node.left, [_SWAPS[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in _SWAPS:
        yield ast.BinOp(node.left, _SWAPS[type(node.op)](), node.right)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(_SWAPS[type(node.op)](), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield node.operand
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        *first, last = node.args
        yield ast.Call(node.func, [*first, ast.BinOp(last, ast.Sub(), ast.Constant(1))], [])


def mutants(sample: Sample) -> list[tuple[Mutant, str]]:
    """Every mutant of a sample's modules, with the source that it makes of its module."""
    found = []
    paths = sorted(path for pattern in sample.modules for path in PACKAGE.glob(pattern))
    for path in paths:
        source = path.read_text(encoding="utf-8")
        name = path.relative_to(PACKAGE).as_posix()
        seen: set[int] = set()
        lines = source.splitlines()
        turns: Counter[tuple[str, str, str]] = Counter()
        for function, node, changed in _places(ast.parse(source)):
            if id(node) in seen or _is_docstring(node):
                continue
            seen.add(id(node))
            was = " ".join((ast.get_source_segment(source, node) or "").split())
            line = lines[node.lineno - 1].strip()
            for new in changed:
                text = _replaced(source, node, ast.unparse(ast.fix_missing_locations(copy.deepcopy(new))))
                change = f"{was} -> {ast.unparse(new)}"
                found.append((Mutant(name, function, line, change, turns[function, line, change]), text))
                turns[function, line, change] += 1
    return found


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _replaced(source: str, node: Any, text: str) -> str:
    """The source with another text in the place of a node; parentheses keep what is around it apart."""
    lines = source.splitlines(keepends=True)
    before = "".join(lines[: node.lineno - 1]) + lines[node.lineno - 1].encode()[: node.col_offset].decode()
    end = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode() + "".join(lines[node.end_lineno :])
    return f"{before}({text}){end}"


def drawn(name: str) -> list[tuple[Mutant, str]]:
    """The mutants that are judged."""
    return sorted(mutants(SAMPLES[name]), key=lambda found: found[0].lot)[: SAMPLES[name].size]


# -- judging -------------------------------------------------------------------------------------------

_JUDGE: Final = """
import sys
import softbench_backends
from softbench.conformance.apart import judge_apart
first = []
def on_case(done, total, result):
    if result.status == "failed":
        first.append(result)
        raise KeyboardInterrupt  # one failure is enough
for profile in sys.argv[3:]:
    report = judge_apart(sys.argv[1], profile, on_case, select=None if sys.argv[2] == "*" else [sys.argv[2]])
    failed = first or report.of("failed") or report.of("unjudged")
    if failed:
        print("KILLED", profile, failed[0].id)
        break
else:
    print("SURVIVES")
"""


def judge(sample: Sample, mutant: Mutant, source: str, profiles: tuple[str, ...]) -> str:
    """``killed by CASE`` or ``survives``, with the last profile that it survives."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "softbench_backends"
        shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
        (package / mutant.path).write_text(source, encoding="utf-8")
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([folder, str(ROOT)]),
            "NUMBA_CACHE_DIR": str(Path(folder) / "cache"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [sys.executable, "-c", _JUDGE, sample.backend, sample.rows, *profiles]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
        except subprocess.TimeoutExpired:
            return "killed: hangs"
    for line in done.stdout.splitlines():
        if line.startswith("KILLED"):
            _, profile, case = line.split(" ", 2)
            return f"killed by {case} ({profile})"
        if line.startswith("SURVIVES"):
            return f"{SURVIVES} {profiles[-1]}"
    return f"killed: {(done.stderr.strip().splitlines() or ['no verdict'])[-1][:200]}"


def _verdicts() -> dict[str, dict[str, str]]:
    """By mutant: its ``verdict``, and ``why`` it survives, which is written by hand."""
    found: dict[str, dict[str, str]] = json.loads(VERDICTS.read_text(encoding="utf-8")) if VERDICTS.exists() else {}
    return found


def _profiles_left(sample: Sample, verdict: str) -> tuple[str, ...]:
    """The profiles that a mutant has not been put through."""
    if not verdict:
        return sample.profiles
    survived = verdict.removeprefix(SURVIVES).strip() if verdict.startswith(SURVIVES) else sample.profiles[-1]
    return sample.profiles[sample.profiles.index(survived) + 1 :]


def results() -> Iterator[str]:
    """Score by sample, and what survives, as Markdown."""
    verdicts = {key: found["verdict"] for key, found in _verdicts().items()}
    yield "| sample | mutants | drawn | judged | killed | survive |"
    yield "|---|---|---|---|---|---|"
    survivors = []
    for name, sample in SAMPLES.items():
        chosen = [mutant for mutant, _ in drawn(name)]
        judged = [mutant for mutant in chosen if mutant.key in verdicts]
        passed = [mutant for mutant in judged if verdicts[mutant.key].startswith(SURVIVES)]
        counts = (len(mutants(sample)), len(chosen), len(judged), len(judged) - len(passed), len(passed))
        yield f"| {name} | {' | '.join(map(str, counts))} |"
        survivors += passed
    yield ""
    for mutant in survivors:
        why = _verdicts()[mutant.key].get("why", "not explained")
        yield f"* `{mutant.key}` {verdicts[mutant.key]}: {why}"


def main() -> None:
    """Judge the samples, or tell about them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", nargs="*", metavar="SAMPLE", help=f"of {', '.join(SAMPLES)} (default: all)")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--results", action="store_true")
    parser.add_argument("--quick", action="store_true", help="the first profile alone")
    parser.add_argument("--survivors", action="store_true", help="judge these once more")
    parser.add_argument("--at-most", type=int, metavar="N", help="stop after N mutants")
    parsed = parser.parse_args()
    if parsed.results:
        print("\n".join(results()))
        return
    judged = 0
    for name in parsed.samples or SAMPLES:
        sample = SAMPLES[name]
        for mutant, source in drawn(name):
            verdict = _verdicts().get(mutant.key, {}).get("verdict", "")
            if parsed.list:
                print(f"{mutant.key}: {verdict or 'not judged'}")
                continue
            again = parsed.survivors and verdict.startswith(SURVIVES)
            profiles = _profiles_left(sample, "" if again else verdict)
            if parsed.quick:
                profiles = profiles[: len(profiles) - len(sample.profiles) + 1]
            if profiles and judged != parsed.at_most:
                judged += 1
                start = time.monotonic()
                verdict = judge(sample, mutant, source, profiles)
                print(f"{time.monotonic() - start:6.1f} s  {mutant.key}: {verdict}", flush=True)
                verdicts = _verdicts()
                verdicts[mutant.key] = {**verdicts.get(mutant.key, {}), "verdict": verdict}
                VERDICTS.write_text(json.dumps(verdicts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
