"""Write docs/kill-matrix.md: every wrong backend of the zoo, and the case that rejects it.

python tests/zoo/matrix.py

The page says what ``tests/conformance/test_zoo.py`` holds the kit to: each backend fails the case named for it, and the
right one passes that case.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from zoo.kinds import MUTANTS

PAGE = Path(__file__).parents[2] / "docs" / "kill-matrix.md"

HEAD = """<!-- Written by `python tests/zoo/matrix.py`; do not edit. -->
# Which checks catch which bugs

A verdict is worth what it can reject. Each line is a wrong backend: a right one with one realistic bug planted, in
`tests/zoo/mutants.py`, and in `tests/zoo/kinds.py` those of the kinds that an earlier kit let through. The test suite
demands that each is rejected *by the case named here*, which is in the standard profile
([semantics](semantics.md)), and that the right backend passes that case. Many fail other cases too; the page does not
count them.

This zoo has grown together with the kit: that all of it is rejected says nothing of bugs that nobody has thought of.
Three samples say something of these. Of 112 wrong backends written without a look at the zoo an earlier kit rejected
63; the kinds of the others are those of `kinds.py`. Of 20 more, written later by one who knew these kinds, the
standard profile rejected 19; the twentieth (`last-maximum-in-threads`) is in the zoo since. A third sample was
written by one who had read this page: of 39 backends that break the contract as it then stood, the standard profile
rejected 32. It was not a blind test: the first eight were judged while the kit was at work, and two by single cases
only. The other seven (`equal-weights-are-none`, `half-smoothing-is-most`,
`labels-wrap-to-ignored`, `sums-on-average`, `many-cached-by-ends`, `sums-by-environment`, `scratch-by-thread-number`)
are in the zoo since, and so are three that leave traces in their process, of which the contract said nothing. What
machine-made mutants of the kernels say is on [another page](mutation.md).

Right backends that do things another way (`tests/zoo/right.py`) must pass: one that flushes subnormal results and says
so, one with looser gates, one that has two of the functions, and nine more.

"""


def render() -> str:
    """The page."""
    lines = ["| wrong backend | the bug | caught by |", "|---|---|---|"]
    for mutant in MUTANTS.values():
        bug = mutant.bug.replace("|", "\\|")
        lines.append(f"| {mutant.name} | {bug} | `{mutant.killer}` |")
    return f"{HEAD}{len(MUTANTS)} wrong backends, {len(MUTANTS)} rejected.\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
