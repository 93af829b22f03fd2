"""What a mutant is put through: the quick profile of the kit, one test per case.

Not collected by default (the name is no ``test_*.py``): `run.py` names it, and in ``$SOFTBENCH_MUTATED`` the module at
work. The front and its primitives are judged with NumPy's rows, sized as for an interpreter, in a fifth of the time.
"""

import math
import os

import numpy as np
import pytest

from softbench.conformance import contract
from softbench.conformance.backend_under_test import under_test
from softbench.conformance.runner import judge_case
from softbench_backends.numpy import NumpyBackend
from softbench_backends.python import PythonBackend


class Quick(NumpyBackend):
    """NumPy's rows, asked for little."""

    cost = "interpreted"


class Strided(Quick):
    """Takes ``(outer, K, inner)`` as it is."""

    accepts_strided = True

    def _map(self, kernel, x, out):
        if x.ndim == 2:
            return kernel(x, out)
        out[...] = np.moveaxis(kernel(_rows(x), np.empty(_rows(x).shape, x.dtype)).reshape(_moved(x)), -1, 1)
        return out

    def argmax(self, x, out):
        return super().argmax(_rows(x), out)

    def logsumexp(self, x, out):
        return super().logsumexp(_rows(x), out)

    def softmax(self, x, out):
        return self._map(super().softmax, x, out)

    def log_softmax(self, x, out):
        return self._map(super().log_softmax, x, out)

    def loss(self, x, target, loss):
        return super().loss(_rows(x), target, loss)

    def gradient(self, x, target, divisor, out):
        loss = np.empty(math.prod(x.shape) // x.shape[1])
        return self.loss_and_gradient(x, target, divisor, loss, out)[1]

    def loss_and_gradient(self, x, target, divisor, loss, out):
        kernel = super().loss_and_gradient
        out = self._map(lambda rows, into: kernel(rows, target, divisor, loss, into)[1], x, out)
        return loss, out


def _moved(x):
    return x.shape[:1] + x.shape[2:] + x.shape[1:2]


def _rows(x):
    return x if x.ndim == 2 else np.ascontiguousarray(np.moveaxis(x, 1, -1)).reshape(-1, x.shape[1])


BACKENDS = {"python": PythonBackend, "numpy": Quick, "strided": Strided}
CASES = {case.id: case for case in contract.cases("quick")}
_ALONG_AN_AXIS = ("axes/", "out/", "layouts/")

if os.environ["SOFTBENCH_MUTATED"] == "softbench_backends.python":
    CHOSEN = [("python", name) for name in CASES]
else:
    CHOSEN = [("numpy", name) for name in CASES]
    CHOSEN += [("strided", name) for name in CASES if name.startswith(_ALONG_AN_AXIS)]


@pytest.mark.parametrize(("backend", "case"), CHOSEN)
def test_case(backend, case):
    # A backend made anew: `get_backend` keeps its own, made before the mutant was chosen.
    result = judge_case(under_test(BACKENDS[backend], "quick"), CASES[case])
    assert result.status != "failed", result.message
