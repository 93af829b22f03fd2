"""Mutation tests of the pure-Python backend, the front and the host's array primitives, with mutmut.

    pip install -e ".[test,mutation]"
    python tests/mutation/run.py                        # everything (start again after an interruption: it goes on)
    python tests/mutation/run.py 'softbench.front.*'    # some mutants, by mutmut's names
    python tests/mutation/run.py --results              # score, and the diff of every survivor

mutmut derives the name of a module from its path and knows only the prefix ``src``, so it works on a copy of the
tree (``build/mutation``) in which both packages stand side by side in ``src``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "mutation"
MUTATED = ("softbench/front.py", "softbench/host_arrays.py", "softbench_backends/python.py")
TESTS = ("tests/mutation/rows_of_the_contract.py", "tests/test_arguments.py")

CONFIG = f"""
[tool.mutmut]
source_paths = ["src"]
only_mutate = {[f"src/{path}" for path in MUTATED]}
pytest_add_cli_args_test_selection = {list(TESTS)}
use_git_change_detection = false
track_dependencies = false
timeout_constant = 20.0
"""


def prepare() -> None:
    """The copy of the tree; files that did not change keep their times, so that verdicts on them are kept."""
    WORK.mkdir(parents=True, exist_ok=True)
    for source, target in (
        (ROOT / "softbench", WORK / "src" / "softbench"),
        (ROOT / "backends" / "softbench_backends", WORK / "src" / "softbench_backends"),
        (ROOT / "tests", WORK / "tests"),
    ):
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (WORK / "pyproject.toml").write_text(project + CONFIG, encoding="utf-8")


def mutmut(*arguments: str) -> str:
    """What a command of mutmut prints."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, cwd=WORK, capture_output=True, text=True, check=True).stdout


def results() -> None:
    """The score, and what survives."""
    status = dict(re.findall(r"^\s*(\S+): (.+)$", mutmut("results", "--all", "true"), re.MULTILINE))
    by_module: dict[str, Counter[str]] = {}
    for name, verdict in status.items():
        by_module.setdefault(name.partition(".x")[0], Counter())[verdict] += 1
    for module, counts in sorted(by_module.items()):
        judged = sum(counts.values()) - counts["not checked"]
        killed = counts["killed"] + counts["timeout"]
        print(f"{module}: {killed} of {judged} killed; {dict(counts)}")
    for name, verdict in status.items():
        if verdict not in ("killed", "timeout", "not checked"):
            print(f"\n-- {name}: {verdict}")
            changed = (line for line in mutmut("show", name).splitlines() if re.match(r"[-+][^-+]", line))
            print("\n".join(changed))


if __name__ == "__main__":
    if sys.argv[1:] == ["--results"]:
        results()
    else:
        prepare()
        raise SystemExit(subprocess.run([sys.executable, "-m", "mutmut", "run", *sys.argv[1:]], cwd=WORK).returncode)
