"""The largest errors that the kernels' modules state are those of the inputs that they name."""

import re

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed")

import softbench as sb
from benchmarks.studies import numerics
from softbench.accuracy import judging
from softbench.accuracy.hard_inputs import HARD_INPUTS
from softbench_backends.numba import long_rows, short_rows, soft_rows

pytestmark = pytest.mark.deep

LINE = r"^ +(\w+) +(float\d+) +([\d.]+)  ([\w-]+), (\d+) classes, seed (\d+), entry \[([\d, ]+)\]$"
CALLS = {
    "softmax": ("softmax", ""),
    "log_softmax": ("log_softmax", ""),
    "logsumexp": ("logsumexp", ""),
    "index_loss": ("loss", "index"),
    "label_gradient": ("gradient", "index"),
    "off_label_gradient": ("gradient", "index"),
    "soft_loss": ("loss", "soft"),
    "soft_gradient": ("gradient", "soft"),
}
STATED = [
    (module.__name__.rpartition(".")[2], *line.groups())
    for module in (long_rows, short_rows, soft_rows)
    for line in re.finditer(LINE, module.__doc__, re.MULTILINE)
]


def test_every_table_is_read():
    assert len(STATED) == 2 * (6 + 8 + 2)


@pytest.mark.parametrize("stated", STATED, ids=lambda stated: "-".join(stated[:3]))
def test_the_input_that_a_module_names_gives_the_error_that_it_states(stated):
    _, part, dtype, error, family, classes, seed, entry = stated
    k = int(classes)
    x = HARD_INPUTS[family](np.random.default_rng(int(seed)), max(2, numerics.ELEMENTS // k), k, dtype)
    op, kind = CALLS[part]
    target = numerics.target(kind, x, int(seed))
    options = {"reduction": "none"} if target else {}
    result = getattr(sb.get_backend("numba"), op)(x, *target, **options)
    found = judging.judge(op, result, x, *target, **options).stats[part]
    assert found.max == pytest.approx(float(error), abs=2e-3)
    assert found.worst == tuple(map(int, entry.split(",")))
