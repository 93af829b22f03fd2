"""Timed calls get inputs that change, and their results are looked at: who answers from memory is found out."""

import numpy as np
import pytest

import softbench
from softbench.front.backend import Backend
from softbench.measure import changing_logits
from softbench.measure.changing_logits import ChangingCandidate, ChangingLogits, StaleResultError
from softbench.measure.inputs import make_inputs
from softbench.measure.workloads import OPS, custom
from softbench_backends.numpy import NumpyBackend

SHAPES = [((64, 10), -1), ((5,), -1), ((1, 33), -1), ((6, 5, 4), 1), ((7, 3), 0), ((300, 200), -1)]


def candidate(workload, backend=None):
    return ChangingCandidate(workload, backend or softbench.get_backend("numpy"), make_inputs(workload))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_honest_results_pass(op, dtype, shape, axis):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    for target in ("index", "soft"):
        made = candidate(custom(op, shape, dtype, axis=axis, target=target))
        for number in (1, 3, 60):
            assert made.sample(number).wall > 0
        assert made.looks >= 3


@pytest.mark.parametrize("result", ["out", "in place"])
def test_honest_results_pass_wherever_they_go(result):
    made = candidate(custom("log_softmax", (300, 200), result=result))
    for _ in range(5):
        made.sample(2, warm=1)
    assert made.looks >= 3


def three_samples(made, number):
    for _ in range(3):
        made.sample(number)


class ByPointer(NumpyBackend):
    """Computes an array once, and remembers it by its address."""

    def __init__(self):
        super().__init__()
        self.known = {}

    def _key(self, x):
        return x.ctypes.data, x.shape

    def _remembered(self, op, x, compute):
        key = (op, *self._key(x))
        if key not in self.known:
            made = compute()
            self.known[key] = tuple(np.copy(m) for m in made) if isinstance(made, tuple) else np.copy(made)
        return self.known[key]

    def softmax(self, x, out):
        return self._remembered("softmax", x, lambda: super(ByPointer, self).softmax(x, out))

    def log_softmax(self, x, out):
        return self._remembered("log_softmax", x, lambda: super(ByPointer, self).log_softmax(x, out))

    def logsumexp(self, x, out):
        return self._remembered("logsumexp", x, lambda: super(ByPointer, self).logsumexp(x, out))

    def argmax(self, x, out):
        return self._remembered("argmax", x, lambda: super(ByPointer, self).argmax(x, out))

    def loss_and_gradient(self, x, target, divisor, loss, out):
        def compute():
            return super(ByPointer, self).loss_and_gradient(x, target, divisor, loss, out)

        return self._remembered(f"both {divisor}", x, compute)

    def loss(self, x, target, loss):
        return self._remembered("loss", x, lambda: super(ByPointer, self).loss(x, target, loss))

    def gradient(self, x, target, divisor, out):
        return self._remembered(
            f"gradient {divisor}", x, lambda: super(ByPointer, self).gradient(x, target, divisor, out)
        )

    def log_loss(self, p, target, loss):
        return self._remembered("log_loss", p, lambda: super(ByPointer, self).log_loss(p, target, loss))


class ByFirstAndLastRow(ByPointer):
    """Remembers by the contents of the first and the last row."""

    def _key(self, x):
        return x.shape, x[0].tobytes(), x[-1].tobytes()


class OnlyTheLoss(ByPointer):
    """The gradient is computed every time, the loss comes from memory."""

    def loss_and_gradient(self, x, target, divisor, loss, out):
        losses, gradient = NumpyBackend.loss_and_gradient(self, x, target, divisor, loss, out)
        return self.known.setdefault("losses", losses.copy()), gradient


@pytest.mark.parametrize("cheat", [ByPointer, ByFirstAndLastRow])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("number", [1, 7, 60])
def test_who_answers_from_memory_is_found_out(cheat, op, number):
    made = candidate(custom(op, (300, 20)), Backend(cheat()))
    with pytest.raises(StaleResultError, match="no result of its inputs"):
        three_samples(made, number)


def test_who_remembers_only_the_loss_is_found_out():
    made = candidate(custom("loss_and_gradient", (300, 20)), Backend(OnlyTheLoss()))
    with pytest.raises(StaleResultError, match="the mean loss"):
        three_samples(made, 1)


def test_the_middle_changes_and_is_put_back():
    workload = custom("softmax", (50, 8))
    inputs = make_inputs(workload)
    before = inputs.logits.copy()
    logits = ChangingLogits(workload, softbench.get_backend("numpy"), inputs)
    places = set()
    for _ in range(20):
        assert logits.change() is False  # the same array, another content
        changed = np.argwhere(logits.array != before)
        assert len(changed) == 1
        row, column = changed[0]
        assert 0 < row < 49
        assert 0 < column < 7
        assert logits.outer == (row,)
        assert logits.row.argmax() == column
        places.add((row, column))
    assert len(places) > 5


class Device:
    """Arrays of a device that cannot be written (JAX's), or only through the library."""

    def __init__(self, writable):
        self.made = 0
        self.writable = writable

    def asarray(self, x):
        self.made += 1
        copy = np.array(x).view(Elsewhere)
        copy.flags.writeable = self.writable
        return copy


class Elsewhere(np.ndarray):
    pass


@pytest.mark.parametrize("writable", [True, False])
def test_arrays_that_are_not_the_hosts_are_written_or_made_anew(monkeypatch, writable):
    workload = custom("softmax", (50, 8))
    backend = softbench.get_backend("numpy")
    device = Device(writable)
    monkeypatch.setattr(backend.rows, "asarray", device.asarray, raising=False)
    inputs = make_inputs(workload)
    logits = ChangingLogits(workload, backend, inputs)
    monkeypatch.setattr(logits, "shared", False)
    for _ in range(5):
        anew = logits.change()
        assert anew is not writable
        assert np.array_equal(logits.array, logits.host)


def test_looking_takes_no_more_than_its_share(monkeypatch):
    made = candidate(custom("softmax", (4, 10)))
    monkeypatch.setattr(changing_logits, "SHARE", 0.0)
    for _ in range(10):
        made.sample(1)
    assert made.looks == changing_logits.FIRST_LOOKS
