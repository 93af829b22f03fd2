"""Mutation tests of the pure-Python backend, the front and the host's array primitives, with mutmut's mutants.

    pip install -e ".[test,mutation]"
    python tests/mutation/run.py                        # everything that is not decided yet
    python tests/mutation/run.py 'softbench.front.backend.*'    # some mutants, by name
    python tests/mutation/run.py --survivors            # and what survived before the tests were changed
    python tests/mutation/run.py --seconds 100          # as far as that goes; start again and it goes on
    python tests/mutation/run.py --results              # score, and the diff of every survivor

mutmut changes one expression at a time; what runs its mutants is `forks.py`, because a process of pytest for each
takes longer than the tests. Works on a copy of the tree (``build/mutation``). A verdict holds as long as its function
does; ``--survivors`` asks again, with today's tests, for the mutants that survived.
"""

from __future__ import annotations

import argparse
import difflib
import fnmatch
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "mutation"
STATE = WORK / "verdicts.json"
SOURCES = {"softbench": ".", "softbench_backends": "backends", "tests": "."}  # folders, and where they are
MUTATED = (
    "softbench_backends/python.py",
    "softbench/interface/host_arrays.py",
    "softbench/front/backend.py",
    "softbench/front/options.py",
    "softbench/front/fast_path.py",
)
TESTS = (
    "tests/mutation/cases.py",
    "tests/front/test_arguments.py",
    "tests/front/test_front.py",
    "tests/interface/test_host_arrays.py",
    "tests/backends/test_python.py",
    "tests/test_waist.py",
)
ARGUMENTS = ("-q", "--no-header", "-s", "-p", "forks", "-p", "no:cacheprovider", "-k", "not numba", "--tb=no")


class Mutant(NamedTuple):
    """A mutant by name, with what it changes."""

    name: str  # softbench.front.options.x_check_axis__mutmut_3
    function: str  # mutmut's hash of the right function
    diff: str


def mutants_of(path: str) -> tuple[list[Mutant], str]:
    """All mutants of a module, and the module that holds them."""
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / "pyproject.toml").write_text('[tool.mutmut]\nsource_paths = ["."]\n', encoding="utf-8")
    os.chdir(WORK)  # where mutmut looks for its configuration
    from mutmut.mutation.file_mutation import mutate_file_contents

    made = mutate_file_contents(path, (ROOT / SOURCES[path.partition("/")[0]] / path).read_text(encoding="utf-8"))
    lines = made.code.splitlines()
    text = {  # the definitions too, whose defaults are changed
        name: [line.replace(name, "function") for line in lines[span.start - 1 : span.end]]
        for name, span in made.line_span_by_function_name.items()
    }
    mutants = []
    for name in made.mutant_names:
        function = name.rpartition("__mutmut_")[0]
        changed = difflib.unified_diff(text[f"{function}__mutmut_orig"], text[name], n=0, lineterm="")
        diff = "\n".join(line for line in changed if not line.startswith(("---", "+++", "@@")))
        mutants.append(Mutant(f"{module_of(path)}.{name}", made.hash_by_function_name[function], diff))
    return mutants, made.code.replace("from mutmut.mutation.trampoline import", "from switch import")


def prepare(code: dict[str, str]) -> Path:
    """A copy of the tree with the mutated modules in place of the right ones."""
    tree = WORK / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    for folder, parent in SOURCES.items():
        shutil.copytree(ROOT / parent / folder, tree / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tree)
    for path, text in code.items():
        (tree / path).write_text(text, encoding="utf-8")
    return tree


def module_of(path: str) -> str:
    """``softbench.front.backend`` for ``softbench/front/backend.py``."""
    return path.removesuffix(".py").replace("/", ".")


def digest_of_tests() -> str:
    """Of what says whether a mutant survives."""
    found = hashlib.sha256()
    for path in (*(ROOT / test for test in TESTS), *sorted((ROOT / "softbench" / "conformance").glob("*.py"))):
        found.update(path.read_bytes() if path.exists() else b"")
    return found.hexdigest()


def known() -> dict[str, dict[str, str]]:
    """Verdicts so far, by mutant: ``verdict``, ``test``, and the ``function`` and ``tests`` that they are about."""
    return json.loads(STATE.read_text(encoding="utf-8")) if STATE.exists() else {}


def still_holds(found: dict[str, str] | None, mutant: Mutant, tests: str = "") -> bool:
    """Whether there is a verdict on this function; with ``tests``, one of these tests if they let the mutant pass."""
    if found is None or found["function"] != mutant.function:
        return False
    return found["verdict"] in ("killed", "timeout") or not tests or found["tests"] == tests


def judge(mutants: list[Mutant], tree: Path, seconds: float, survivors: bool) -> int:
    """Run what is not decided, or survived other tests, module by module; returns pytest's exit status."""
    tests, verdicts, until = digest_of_tests(), known(), time.time() + seconds
    undecided = [m for m in mutants if not still_holds(verdicts.get(m.name), m, tests if survivors else "")]
    print(f"{len(mutants)} mutants, {len(undecided)} to judge", flush=True)
    status = 0
    for path in MUTATED:
        module = module_of(path)
        todo = {m.name: m for m in undecided if m.name.startswith(f"{module}.x")}
        if not todo or status or time.time() > until:
            continue
        job = WORK / "job.json"
        so_far = {name: (found["verdict"], found["test"]) for name, found in verdicts.items() if name not in todo}
        job.write_text(json.dumps({"todo": list(todo), "until": until, "verdicts": so_far}), encoding="utf-8")
        environment = os.environ | {
            "SOFTBENCH_MUTANTS": str(job),
            "SOFTBENCH_MUTATED": module,
            "PYTHONPATH": os.pathsep.join([str(tree), str(tree / "tests" / "mutation")]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [sys.executable, "-m", "pytest", *ARGUMENTS, *(test for test in TESTS if (tree / test).exists())]
        status = subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.DEVNULL).returncode
        found = json.loads(job.read_text(encoding="utf-8"))["verdicts"]
        for name in todo.keys() & found.keys():
            verdict, test = found[name]
            verdicts[name] = {"verdict": verdict, "test": test, "function": todo[name].function, "tests": tests}
        STATE.write_text(json.dumps(verdicts, indent=0), encoding="utf-8")
        print(f"{module}: {len(todo.keys() & found.keys())} judged", flush=True)
    return status


def results(mutants: list[Mutant]) -> None:
    """The score, and what survives."""
    tests, verdicts = digest_of_tests(), known()
    by_module: dict[str, Counter[str]] = {}
    surviving = []
    for mutant in mutants:
        found = verdicts.get(mutant.name)
        verdict = found["verdict"] if found and found["function"] == mutant.function else "not judged"
        if verdict in ("survived", "no tests"):
            surviving.append((mutant, verdict + ("" if found["tests"] == tests else " (older tests)")))
        by_module.setdefault(mutant.name.partition(".x")[0], Counter())[verdict] += 1
    for module, counts in by_module.items():
        judged = counts.total() - counts["not judged"]
        killed = counts["killed"] + counts["timeout"]
        print(f"{module}: {counts.total()} mutants, {judged} judged, {killed} killed; {dict(counts)}")
    for mutant, verdict in surviving:
        print(f"\n-- {mutant.name}: {verdict}\n{mutant.diff}")


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="mutants, by name")
    parser.add_argument("--survivors", action="store_true", help="also those that survived when the tests were others")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after the mutant at work then")
    parser.add_argument("--results", action="store_true", help="print what is known")
    arguments = parser.parse_args()
    made = {path: mutants_of(path) for path in MUTATED}
    mutants = [mutant for found, _ in made.values() for mutant in found]
    named = [
        m for m in mutants if not arguments.patterns or any(fnmatch.fnmatchcase(m.name, p) for p in arguments.patterns)
    ]
    if arguments.results:
        results(named)
        return 0
    return judge(
        named, prepare({path: code for path, (_, code) in made.items()}), arguments.seconds, arguments.survivors
    )


if __name__ == "__main__":
    raise SystemExit(main())
