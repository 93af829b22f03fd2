"""A failed case becomes three lines of Python that show it."""

import contextlib
import io
import sys
from pathlib import Path

import pytest

from softbench.conformance.reproduce import reproduce
from softbench.loading import Source

sys.path.insert(0, str(Path(__file__).parents[1]))

CASES = [
    ("zoo.kinds:tail_without_divisor", "combinations/array-classes-index-float32", "gradient("),
    ("zoo.mutants:no_shift", "shift-overflow/softmax-float64", "be.softmax("),
    ("zoo.mutants:ignores_strides", "layouts/same-fortran-softmax-float64", "LAYOUTS["),
]


@pytest.mark.parametrize(("spec", "case", "call"), CASES)
def test_three_lines_show_what_is_wrong(spec, case, call):
    lines = reproduce(Source(spec), case, "standard")
    assert len(lines.splitlines()) == 3, lines
    assert call in lines
    assert len(lines) < 700, lines
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(lines, "<reproducer>", "exec"), {})
    assert printed.getvalue().strip()


def test_a_case_that_passes_has_none():
    assert reproduce(Source("numpy"), "shift-overflow/softmax-float64", "standard") == ""


def test_where_no_call_is_wrong_by_itself_the_case_is_run():
    lines = reproduce(Source("zoo.kinds:cached_by_ends"), "changed-arguments/entries-softmax-x", "standard")
    assert "judge_apart" in lines
    assert "changed-arguments/entries-softmax-x" in lines
