"""Wrong kernels by machine: the numpy and numba backends with one expression changed, judged by the kit alone.

python tests/mutation/kernels.py --list             # the sample
python tests/mutation/kernels.py                    # judge what has no verdict yet; an interrupted run goes on
python tests/mutation/kernels.py --quick            # by the quick profile alone: what passes that has no verdict
python tests/mutation/kernels.py --results          # score and survivors

Each of loop bounds, offsets, comparisons, constants and operators is a place that can be changed; the sample is drawn
from all of them with `SEED`. A mutant is a copy of the backends with its change, first on the path of a process that
runs ``softbench check`` on it: the quick profile, and the standard one where that passes. No other test is asked.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "backends" / "softbench_backends"
VERDICTS: Final = Path(__file__).with_name("kernels.json")

SEED: Final = 20_251_128
SAMPLE: Final = {
    "numpy": (("numpy.py",), 40),
    "numba": (
        ("numba/long_rows.py", "numba/short_rows.py", "numba/soft_rows.py", "numba/split_rows.py", "numba/losses.py"),
        16,
    ),
}
"""Modules of a backend that are changed, and how many mutants are drawn from all of their places."""
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

    backend: str
    path: str
    line: int
    column: int
    change: str
    """What it was and what it has become."""

    @property
    def key(self) -> str:
        """Its name among the verdicts."""
        return f"{self.path}:{self.line}:{self.column}: {self.change}"


# -- changing ------------------------------------------------------------------------------------------


def _places(tree: ast.Module) -> Iterator[tuple[ast.AST, list[ast.AST]]]:
    """Expressions in functions, with what each can become. Docstrings, defaults and annotations stay."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for statement in function.body:
                for node in ast.walk(statement):
                    changed = list(_changes(node))
                    if changed:
                        yield node, changed


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


def mutants(backend: str) -> list[tuple[Mutant, str]]:
    """Every mutant of a backend with the source that it makes of its module."""
    found = []
    for path in SAMPLE[backend][0]:
        source = (PACKAGE / path).read_text(encoding="utf-8")
        tree = ast.parse(source)
        seen: set[int] = set()
        for node, changed in _places(tree):
            if id(node) in seen or _is_docstring(node):
                continue
            seen.add(id(node))
            for new in changed:
                text = _replaced(source, node, ast.unparse(ast.fix_missing_locations(copy.deepcopy(new))))
                was = " ".join((ast.get_source_segment(source, node) or "").split())
                change = f"{was} -> {ast.unparse(new)}"
                found.append((Mutant(backend, path, node.lineno, node.col_offset, change), text))  # type: ignore[attr-defined]
    return found


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _replaced(source: str, node: Any, text: str) -> str:
    """The source with another text in the place of a node; parentheses keep what is around it apart."""
    lines = source.splitlines(keepends=True)
    before = "".join(lines[: node.lineno - 1]) + lines[node.lineno - 1].encode()[: node.col_offset].decode()
    end = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode() + "".join(lines[node.end_lineno :])
    return f"{before}({text}){end}"


def sample(backend: str) -> list[tuple[Mutant, str]]:
    """The mutants that are judged."""
    drawn = mutants(backend)
    return random.Random(f"{SEED} {backend}").sample(drawn, min(SAMPLE[backend][1], len(drawn)))


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
for profile in sys.argv[2:]:
    report = judge_apart(sys.argv[1], profile, on_case)
    failed = first or report.of("failed") or report.of("unjudged")
    if failed:
        print("KILLED", profile, failed[0].id)
        break
else:
    print("SURVIVES")
"""


def judge(mutant: Mutant, source: str, profiles: tuple[str, ...]) -> str:
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
        command = [sys.executable, "-c", _JUDGE, mutant.backend, *profiles]
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


def _verdicts() -> dict[str, str]:
    found: dict[str, str] = json.loads(VERDICTS.read_text(encoding="utf-8")) if VERDICTS.exists() else {}
    return found


def results() -> None:
    """Score by backend, and what survives."""
    verdicts = _verdicts()
    for backend in SAMPLE:
        drawn = [mutant for mutant, _ in sample(backend)]
        judged = [mutant for mutant in drawn if mutant.key in verdicts]
        survivors = [mutant for mutant in judged if verdicts[mutant.key].startswith(SURVIVES)]
        killed = len(judged) - len(survivors)
        print(f"{backend}: {len(mutants(backend))} mutants, {len(drawn)} drawn, {len(judged)} judged, {killed} killed")
        for mutant in survivors:
            print(f"  {mutant.key}: {verdicts[mutant.key]}")


def main() -> None:
    """Judge the sample, or tell about it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backends", nargs="*", metavar="BACKEND", help=f"of {', '.join(SAMPLE)} (default: all)")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--results", action="store_true")
    parser.add_argument("--quick", action="store_true", help="the quick profile alone")
    parser.add_argument("--survivors", action="store_true", help="judge these once more")
    parsed = parser.parse_args()
    if parsed.results:
        results()
        return
    for backend in parsed.backends or SAMPLE:
        for mutant, source in sample(backend):
            verdict = _verdicts().get(mutant.key)
            if parsed.list:
                print(f"{mutant.key}: {verdict or 'not judged'}")
            elif verdict is None or (parsed.survivors and verdict.startswith(SURVIVES)):
                start = time.monotonic()
                verdict = judge(mutant, source, ("quick",) if parsed.quick else ("quick", "standard"))
                print(f"{time.monotonic() - start:6.1f} s  {mutant.key}: {verdict}", flush=True)
                VERDICTS.write_text(json.dumps({**_verdicts(), mutant.key: verdict}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
