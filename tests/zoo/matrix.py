"""Write docs/kill-matrix.md: every wrong backend of the zoo, and the case that rejects it.

python tests/zoo/matrix.py

The page says what ``tests/conformance/test_zoo.py`` holds the kit to: each backend fails the case named for it, and the
right one passes that case.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from zoo.fifth_sample import MUTANTS

from softbench.conformance import contract

PAGE = Path(__file__).parents[2] / "docs" / "kill-matrix.md"

HEAD = """<!-- Written by `python tests/zoo/matrix.py`; do not edit. -->
# Which checks catch which bugs

A verdict is worth what it can reject. Each line is a wrong backend: a right one with one realistic bug planted, in
`tests/zoo/mutants.py`, in `tests/zoo/kinds.py` those of the kinds that an earlier kit let through, and in
`tests/zoo/fourth_sample.py` and `tests/zoo/fifth_sample.py` those of samples that the kit had not seen. The test suite
demands that each is rejected *by the case named here*, which is in the standard profile ([semantics](semantics.md))
unless the line says otherwise, and that the right backend passes that case. Many fail other cases too; the page does
not count them.

This zoo has grown together with the kit: that all of it is rejected says nothing of bugs that nobody has thought of.
Five samples say something of these, each judged by the kit as it stood when the sample was written:

| sample | wrong backends | rejected by the standard profile | written by |
|---|---|---|---|
| first | 112 | 63 (56%) | one who had not looked at the zoo |
| second | 20 | 19 (95%) | one who knew the kinds of bugs that the first had shown |
| third | 39 | 32 (82%) | one who had read this page; not blind: eight were judged while the kit was at work on them |
| fourth | 51 | at least 34 (67%) | one who had read this page and the covering arrays |
| fifth | 92 | 78 (85%) | one who had read the documentation, this page not, and the code of no case |

Of the fourth, the kit as it stood rejected 34 and let three pass; 14 were not put to it before it had learnt of them.
One more had been written for it, and is not wrong: `log_softmax` in float16 with log1p(s) rounded to half precision
before it is subtracted errs by half a unit of log1p(s) and half a unit of the result, which is no smaller: by at most
the 1 ulp that the gate allows.

Of the fifth, the quick profile rejected 73. Three of those that passed have their fault in the functions of linear
logits, which the deep profile alone asks, and passed that as well. All that passed are rejected now. One more, and two
of eight right backends, were rejected for what is right: for the kit the loss of logits further apart than the largest
float64 was infinite, also where a weight of less than 1 makes it finite in extended precision.

What a sample gets past the kit becomes a case of the contract, of the kind and not of the instance, and joins the zoo;
the next one says whether that has helped. The fourth went to other places than those before: arguments in containers
and layouts (windows that overlap in memory, labels of several axes in Fortran order, a Series in another order, axes
that are integers of NumPy), and batches without rows. So "passes softbench" means: right in everything on
[the list of cases](semantics.md), and a bug of a kind that is not on it may well pass. What
machine-made mutants of the kernels say is on [another page](mutation.md).

Right backends that do things another way (`tests/zoo/right.py`) must pass: one that flushes subnormal results and says
so, one with looser gates, one that has two of the functions, one that rounds every probability
down, one that remembers results by all that they depend on, one in extended precision, and fifteen more.

"""


def render() -> str:
    """The page."""
    lines = ["| wrong backend | the bug | caught by |", "|---|---|---|"]
    standard = {case.id for case in contract.cases()}
    for mutant in MUTANTS.values():
        bug = mutant.bug.replace("|", "\\|")
        profile = "" if mutant.killer in standard else " (deep profile)"
        lines.append(f"| {mutant.name} | {bug} | `{mutant.killer}`{profile} |")
    return f"{HEAD}{len(MUTANTS)} wrong backends, {len(MUTANTS)} rejected.\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
