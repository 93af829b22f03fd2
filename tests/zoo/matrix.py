"""Write docs/kill-matrix.md: every wrong backend of the zoo, and which rows of the contract reject it.

python tests/zoo/matrix.py              # some minutes: the quick profile and the named case on every mutant
python tests/zoo/matrix.py NAME ...     # these lines only, the others as they are
python tests/zoo/matrix.py --named ...  # by the named case alone
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from zoo.kinds import MUTANTS
from zoo.mutants import Mutant

from softbench.conformance import contract, run
from softbench.conformance.backend_under_test import under_test
from softbench.conformance.runner import judge_case

PAGE = Path(__file__).parents[2] / "docs" / "kill-matrix.md"

HEAD = """<!-- Written by `python tests/zoo/matrix.py`; do not edit. -->
# Which checks catch which bugs

A verdict is worth what it can reject. Each line is a wrong backend: a right one with one realistic bug planted, in
`tests/zoo/mutants.py`, and in `tests/zoo/kinds.py` those of the kinds that an earlier kit let through. The test suite
demands that each is rejected *by the case named here*, and that the right backend passes that case. The last column
counts the failing cases of the quick profile by row of the contract ([semantics](semantics.md)); where it is empty only
the named case was asked.

This zoo has grown together with the kit: that all of it is rejected says nothing of bugs that nobody has thought of.
Of 112 wrong backends written without a look at it an earlier kit rejected 63; their kinds are those of `kinds.py`, and
what machine-made mutants of the kernels say is on [another page](mutation.md).

"""


def line(mutant: Mutant, killed: str) -> str:
    """A line of the table."""
    return f"| {mutant.name} | {mutant.bug.replace('|', chr(92) + '|')} | `{mutant.killer}` | {killed} |"


def judged(mutant: Mutant, named_only: bool) -> str:
    """Rows that reject a mutant, with the number of their cases that do; none if only the named case is asked."""
    cases = {case.id: case for case in contract.cases()}
    named = judge_case(under_test(mutant.make()), cases[mutant.killer])
    assert named.status == "failed", f"{mutant.name} survives {mutant.killer}"
    if named_only:
        return ""
    report = run(mutant.make(), "quick")
    rows = Counter(result.id.partition("/")[0] for result in report.of("failed"))
    rows.setdefault(mutant.killer.partition("/")[0], 1)
    return ", ".join(f"{row} {count}" for row, count in rows.most_common())


def main(names: list[str]) -> None:
    """Judge the zoo, or some of it, and write the page after every line."""
    page = PAGE.read_text(encoding="utf-8").splitlines()
    lines = {text.split(" | ")[0].removeprefix("| "): text for text in page if text.startswith("| ")}
    named_only = "--named" in names
    for name in [name for name in names if name != "--named"] or MUTANTS:
        lines[name] = line(MUTANTS[name], judged(MUTANTS[name], named_only))
        print(lines[name], flush=True)
        table = ["| wrong backend | the bug | caught by | rows that reject it (cases) |", "|---|---|---|---|"]
        table += [lines[mutant] for mutant in MUTANTS if mutant in lines]
        rejected = f"{len(table) - 2} wrong backends, {len(table) - 2} rejected.\n\n"
        PAGE.write_text(HEAD + rejected + "\n".join(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
