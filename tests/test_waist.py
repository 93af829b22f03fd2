"""The narrow waist as a backend sees it: what the front asks and hands over, and what it makes of what comes back."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from softbench.front.backend import Backend
from softbench.interface import IndexTarget, RowBackend
from softbench.interface.host_arrays import HostArrays
from softbench_backends.numpy import NumpyBackend

ARGUMENTS = {"logits", "probs", "target", "sample_weight", "class_weight", "out"}
LONG_WAY = np.int64(-1)  # an axis that the short way does not know by identity


def _is_plain(array):
    return type(array) is np.ndarray and array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative


class Checking(NumpyBackend):
    """NumPy's kernels, which hold the front to what `softbench.interface` promises them."""

    def __init__(self):
        self.seen = []  # rows that kernels were given
        self.written = []  # and the results they filled

    def _check(self, x, target=None, loss=None, out=None):
        assert _is_plain(x)
        assert x.dtype.name in self.dtypes
        assert x.ndim == 2
        assert x.size
        self.seen.append(x)
        if out is not None:
            assert _is_plain(out)
            assert (out.shape, out.dtype) == (x.shape, x.dtype)
            self.written.append(out)
        if loss is not None:
            assert _is_plain(loss)
            assert (loss.shape, loss.dtype.name) == ((len(x),), "float64")
        if isinstance(target, IndexTarget):
            assert _is_plain(target.labels)
            assert (target.labels.shape, target.labels.dtype.name) == ((len(x),), "int64")
            for weight, shape in ((target.sample_weight, (len(x),)), (target.class_weight, x.shape[1:])):
                assert weight is None or (_is_plain(weight) and weight.shape == shape and weight.dtype == np.float64)
        elif target is not None:
            assert _is_plain(target.q)
            assert (target.q.shape, target.q.dtype) == (x.shape, x.dtype)

    def argmax(self, x, out):
        self._check(x)
        assert (out.shape, out.dtype.name) == ((len(x),), "int64")
        return super().argmax(x, out)

    def logsumexp(self, x, out):
        self._check(x)
        assert (out.shape, out.dtype) == ((len(x),), x.dtype)
        return super().logsumexp(x, out)

    def softmax(self, x, out):
        self._check(x, out=out)
        return super().softmax(x, out)

    def log_softmax(self, x, out):
        self._check(x, out=out)
        return super().log_softmax(x, out)

    def log_loss(self, p, target, loss):
        self._check(p, target, loss)
        return super().log_loss(p, target, loss)

    def loss(self, x, target, loss):
        self._check(x, target, loss)
        return super().loss(x, target, loss)

    def loss_and_gradient(self, x, target, divisor, loss, out):
        self._check(x, target, loss, out)
        return super().loss_and_gradient(x, target, divisor, loss, out)


class CheckingAll(Checking):
    """Checks the questions of the front to its primitives too, and so takes no short way."""

    def __init__(self):
        super().__init__()
        self.asked = Counter()
        self.wrapped = []

    def accept(self, obj, argument):
        assert argument in ARGUMENTS
        self.asked[argument] += 1
        return super().accept(obj, argument)

    def wrap(self, result, like):
        self.wrapped.append(like)
        return super().wrap(result, like)

    def empty(self, shape, dtype):
        assert isinstance(dtype, (str, np.dtype))
        return super().empty(shape, dtype)

    def full(self, shape, value, dtype):
        assert isinstance(dtype, str)
        return super().full(shape, value, dtype)

    def as_rows(self, x, axis, dtype):
        assert isinstance(dtype, str)
        return super().as_rows(x, axis, dtype)

    def from_rows(self, rows, shape, axis, dtype, out=None):
        assert isinstance(dtype, str)
        assert rows.ndim == 2
        self.asked["from_rows"] += 1
        return super().from_rows(rows, shape, axis, dtype, out)


def _calls(x, axis=-1):
    """Every function in every form, by name: the arguments after the logits, and options."""
    n = np.moveaxis(x, axis, -1).shape[:-1]
    k = x.shape[axis]
    y, s, w = np.zeros(n, np.int64), np.ones(n), np.ones(k)
    q = np.full(x.shape, 1 / k) if k else np.zeros(x.shape)
    for name in ("argmax", "logsumexp", "softmax", "log_softmax"):
        yield name, (), {}
    targets = [(y, {}), (y.astype(np.int32), {"sample_weight": s, "class_weight": w, "ignore_index": 0}),
               (y, {"label_smoothing": 0.25}), (q, {}), (q, {"sample_weight": s, "class_weight": w})]  # fmt: skip
    for name, (target, options), reduction in itertools.product(
        ("loss", "gradient", "loss_and_gradient", "log_loss"), targets, ("none", "sum", "mean")
    ):
        if name != "log_loss" or "label_smoothing" not in options:
            yield name, (target,), {**options, "reduction": reduction}


FORMS = {
    "plain": lambda x: x,
    "fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "integers": lambda x: x.astype(np.int8),
}


@pytest.mark.parametrize("backend", [Checking, CheckingAll])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("shape", "axis"), [((4, 3), -1), ((4, 3), 1), ((4, 3), 0), ((2, 3, 4), 1), ((3,), 0)])
def test_kernels_are_given_rows_and_results_to_fill(backend, form, dtype, shape, axis):
    x = FORMS[form](np.zeros(shape, dtype))
    due = "float64" if dtype == "float64" or form == "integers" else "float32"
    for name, target, options in _calls(x, axis):
        be = Backend(backend())
        getattr(be, name)(x, *target, axis=axis, **options)
        assert [rows.dtype.name for rows in be.rows.seen] == [due]
        if backend is CheckingAll:
            assert be.rows.asked["probs" if name == "log_loss" else "logits"] == 1
            assert be.rows.wrapped
            assert all(like is x for like in be.rows.wrapped)  # results are the kind of array that the logits are


@pytest.mark.parametrize("backend", [Checking, CheckingAll])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0), (2, 0, 3)])
def test_kernels_are_never_given_nothing(backend, shape):
    x = np.zeros(shape, np.float32)
    for name, target, options in _calls(x):
        be = Backend(backend())
        if shape[-1] == 0 and (name == "argmax" or (target and target[0].ndim < x.ndim)):
            with pytest.raises(ValueError, match="no classes"):
                getattr(be, name)(x, *target, **options)
            continue
        result = getattr(be, name)(x, *target, validate=False, **options) if target else getattr(be, name)(x)
        assert not be.rows.seen
        assert np.asarray(result[-1] if isinstance(result, tuple) else result).dtype != object
        if name in ("softmax", "log_softmax", "gradient"):
            out = np.zeros_like(x)
            more = {"validate": False, **options} if target else {}
            assert getattr(be, name)(x, *target, out=out, **more) is out
        if name == "loss_and_gradient":
            out = np.zeros_like(x)
            assert be.loss_and_gradient(x, *target, out=out, validate=False, **options)[1] is out
        if backend is CheckingAll:
            assert all(like is x for like in be.rows.wrapped)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "gradient", "loss_and_gradient"])
@pytest.mark.parametrize("backend", [Checking, CheckingAll])
@pytest.mark.parametrize("shape", [(4, 3), (2, 2, 3)])
def test_a_fitting_out_is_what_the_kernel_fills(name, backend, shape):
    """No memory of its own and no copy; of another dtype or order it takes both."""
    x = np.zeros(shape)
    target = (np.zeros(shape[:-1], np.int64),) if "gradient" in name else ()
    for axis in (-1, LONG_WAY):
        be = Backend(backend())
        out = np.ones(shape)
        getattr(be, name)(x, *target, axis=axis, out=out)
        assert np.shares_memory(be.rows.written[-1], out)
        if backend is CheckingAll:
            assert be.rows.asked["from_rows"] == 0
        half = np.ones(shape, np.float16)
        getattr(be, name)(x.astype(np.float16), *target, axis=axis, out=half)
        assert not np.shares_memory(be.rows.written[-1], half)
        assert not (half == 1).all()


class Counted(np.ndarray):
    """An array of a class of its own, which the front sees through."""


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "gradient", "loss_and_gradient"])
@pytest.mark.parametrize("shape", [(4, 3), (0, 3)])
@pytest.mark.parametrize("order", ["C", "F"])  # filled by the kernel, or by the front from what it filled
def test_out_of_a_subclass_is_returned_itself(name, shape, order):
    out = np.zeros(shape, order=order).view(Counted)
    target = (np.zeros(shape[0], np.int64),) if "gradient" in name else ()
    result = getattr(Backend(NumpyBackend()), name)(np.zeros(shape), *target, out=out)
    assert (result[1] if name == "loss_and_gradient" else result) is out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize("axis", [-1, 1])
def test_the_commonest_calls_ask_no_primitive(dtype, locked, axis, monkeypatch):
    """An ordinary matrix, ordinary targets, an ordinary ``out``: whatever costs a small batch time is left out."""
    for name in ("accept", "layout", "shares_memory", "as_rows", "from_rows", "wrap"):
        monkeypatch.setattr(HostArrays, name, lambda *_, name=name, **__: pytest.fail(f"{name} is asked"))
    be = Backend(NumpyBackend())
    x, y = np.zeros((4, 3), dtype), np.zeros(4, np.int64)
    x.flags.writeable = not locked
    be.softmax(x, axis=axis), be.log_softmax(x, axis=axis), be.loss(x, y, axis=axis), be.gradient(x, y, axis=axis)
    be.gradient(x, y, axis=axis, reduction="sum")
    q = np.full((4, 3), 1 / 3, dtype)
    q.flags.writeable = not locked
    be.loss(x, q, axis=axis), be.gradient(x, q, axis=axis, out=np.empty_like(x)), be.loss_and_gradient(x, q)
    for out in (np.empty_like(x), np.zeros((4, 3), dtype) if locked else x):
        be.softmax(x, axis=axis, out=out), be.log_softmax(x, axis=axis, out=out)
    monkeypatch.setattr(Backend, "_lower", lambda *_: pytest.fail("_lower is called"))
    be.softmax(x, axis=axis), be.log_softmax(x, axis=axis, out=np.empty_like(x)), be.loss(x, y, axis=axis)
    be.loss(x, q, axis=axis)


@pytest.mark.parametrize("wrong", [[0.5, 0.4, 0.0], [1.5, -0.5, 0.0], [np.nan, 0.5, 0.5]])
@pytest.mark.parametrize("name", ["loss", "gradient", "loss_and_gradient"])
def test_ordinary_distributions_are_checked_before_anything_is_written(name, wrong):
    be = Backend(NumpyBackend())
    x, q, out = np.zeros((4, 3)), np.full((4, 3), 1 / 3), np.ones((4, 3))
    q[2] = wrong
    place = {} if name == "loss" else {"out": out}
    with pytest.raises(ValueError, match="target"):
        getattr(be, name)(x, q, **place)
    assert (out == 1).all()
    getattr(be, name)(x, q, validate=False, **place)
    if place:
        with pytest.raises(ValueError, match="overlap"):
            getattr(be, name)(x, q, validate=False, out=q)


def test_labels_beside_an_ordinary_out_are_only_compared_with_it(monkeypatch):
    for name in ("layout", "as_rows", "from_rows", "wrap"):
        monkeypatch.setattr(HostArrays, name, lambda *_, name=name, **__: pytest.fail(f"{name} is asked"))
    be = Backend(NumpyBackend())
    x, y = np.zeros((4, 3)), np.zeros(4, np.int64)
    for out in (np.empty_like(x), x):
        assert be.gradient(x, y, out=out) is out


def test_what_is_not_so_common_takes_the_long_way():
    be = Backend(NumpyBackend())
    x, y = np.zeros((4, 3)), np.zeros(4, np.int64)
    with pytest.raises(TypeError, match="label_smoothing"):
        be.loss(x, y, label_smoothing="a")
    assert be.loss(x, y, label_smoothing=0) == be.loss(x, y)
    gpu = type("Gpu", (NumpyBackend,), {"kind": "gpu"})
    assert not Backend(gpu())._takes_plain  # whose arrays are no ndarrays


# -- strided logits ------------------------------------------------------------------------------------


class Forms(NumpyBackend):
    """Takes logits in blocks, and remembers their shapes."""

    accepts_strided = True

    def __init__(self):
        self.shapes = []

    def softmax(self, x, out):
        assert _is_plain(x)
        assert (out.shape, out.dtype) == (x.shape, x.dtype)
        self.shapes.append(x.shape)
        out[...] = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
        return out

    def log_loss(self, p, target, loss):
        self.shapes.append(p.shape)
        return super().log_loss(p, target, loss)


@pytest.mark.parametrize(
    ("shape", "axis", "due"),
    [
        ((2, 3, 4), 1, (2, 3, 4)),
        ((2, 3, 4), 0, (1, 2, 12)),
        ((2, 3, 4), -1, (6, 4)),
        ((3, 2), 0, (1, 3, 2)),
        ((1, 5, 2), 1, (1, 5, 2)),
        ((2, 3, 4, 5), 1, (2, 3, 20)),
        ((2, 3, 1), 1, (2, 3)),  # nothing lies between the classes
        ((3, 1), 0, (1, 3)),
    ],
)
def test_logits_along_another_axis_come_as_blocks_where_that_saves_a_transposition(shape, axis, due):
    x = np.random.default_rng(0).normal(size=shape)
    rows = Forms()
    be = Backend(rows)
    expected = Backend(NumpyBackend()).softmax(x, axis=axis)
    out = np.empty(shape)
    for result in (be.softmax(x, axis=axis), be.softmax(x, axis=axis, out=out)):
        assert np.allclose(result, expected, rtol=1e-14, atol=0)
    result = be.softmax(np.asfortranarray(x), axis=axis)  # not C-contiguous: as rows
    assert np.allclose(result, expected, rtol=1e-14, atol=0)
    assert rows.shapes[:2] == [due, due]
    assert len(rows.shapes[2]) == (2 if not np.asfortranarray(x).flags.c_contiguous else len(due))
    p = np.full(shape, 0.5)
    be.log_loss(p, np.zeros(np.moveaxis(p, axis, -1).shape[:-1], int), axis=axis)
    assert len(rows.shapes[3]) == 2  # probabilities always are rows


# -- what comes back -----------------------------------------------------------------------------------


def _returning(method, change):
    """A backend whose ``method`` returns what ``change`` makes of the right result."""

    def kernel(self, *arguments):
        return change(getattr(NumpyBackend, method)(self, *arguments))

    return Backend(type("Wrong", (NumpyBackend,), {"name": "wrong", method: kernel})())


X, Y = np.full((2, 3), 0.5, np.float32), np.zeros(2, np.int64)
PER_ROW = {"argmax": "int64", "logsumexp": "float32", "loss": "float64", "log_loss": "float64"}
METHODS = {name: () if name in ("argmax", "logsumexp", "softmax", "log_softmax") else (Y,)
           for name in (*PER_ROW, "softmax", "log_softmax", "gradient")}  # fmt: skip
WRONG = {
    "a list": (lambda r: r.tolist(), "a list"),
    "None": (lambda r: None, "a NoneType"),
    "a tuple": (lambda r: (r,), "a tuple"),
    "another shape": (lambda r: r[:1].copy(), r"an array of shape \(1.*\) and dtype"),
    "a column": (lambda r: r[..., None], r"an array of shape \(2.*1\) and dtype"),
    "bool": (lambda r: r > 0, "an array of shape .* and dtype bool"),
    "objects": (lambda r: r.astype(object), "an array of shape .* and dtype object"),
    "complex": (lambda r: r.astype(complex), "an array of shape .* and dtype complex128"),
    "narrow integers": (lambda r: r.astype(np.int32), "an array of shape .* and dtype int32"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("axis", [-1, LONG_WAY])
def test_a_kernel_that_returns_something_else_is_named(method, wrong, axis):
    change, what = WRONG[wrong]
    shape, dtype = ("(2,)", PER_ROW[method]) if method in PER_ROW else ("(2, 3)", "float32")
    due = rf"^backend 'wrong': {method} returned {what}.*, expected an array of shape {re.escape(shape)} and dtype "
    due += f"{dtype}$"
    be = _returning(method, change)
    with pytest.raises(TypeError, match=due):
        getattr(be, method)(X, *METHODS[method], axis=axis)
    if method in ("softmax", "log_softmax", "gradient"):
        with pytest.raises(TypeError, match=due):
            getattr(be, method)(X, *METHODS[method], axis=axis, out=np.empty_like(X))


@pytest.mark.parametrize("wrong", ["a list", "another shape", "bool"])
@pytest.mark.parametrize("part", [0, 1])
def test_a_fused_kernel_that_returns_something_else_is_named(wrong, part):
    change, what = WRONG[wrong]
    be = _returning("loss_and_gradient", lambda pair: tuple(change(r) if i == part else r for i, r in enumerate(pair)))
    which, shape = (r"\(losses\)", r"\(2,\)") if part == 0 else (r"\(gradient\)", r"\(2, 3\)")
    with pytest.raises(TypeError, match=rf"'wrong': loss_and_gradient {which} returned {what}.* of shape {shape} and"):
        be.loss_and_gradient(X, Y)


class OnlyFused(NumpyBackend):
    """Leaves the loss and the gradient alone to the base class."""

    name = "wrong"
    loss, gradient = RowBackend.loss, RowBackend.gradient
    returned = None

    def loss_and_gradient(self, x, target, divisor, loss, out):
        return self.returned


@pytest.mark.parametrize(
    ("pair", "due"),
    [
        ((X.astype(int), X), r"\(losses\) returned .*, expected an array of shape \(2,\) and dtype float64"),
        (
            (np.zeros(2), X.astype(int)),
            r"\(gradient\) returned .*, expected an array of shape \(2, 3\) and dtype float32",
        ),
    ],
    ids=["losses", "gradient"],
)
def test_the_wrong_one_of_a_pair_is_named(pair, due):
    rows = OnlyFused()
    rows.returned = pair
    with pytest.raises(TypeError, match=rf"^backend 'wrong': loss_and_gradient {due}$"):
        Backend(rows).loss_and_gradient(X, Y)


@pytest.mark.parametrize("name", ["loss", "gradient", "loss_and_gradient"])
@pytest.mark.parametrize("returned", [None, [Y, X], (X,), (X, X, X), X])
def test_a_fused_kernel_that_returns_no_pair_is_named(name, returned):
    rows = OnlyFused()
    rows.returned = returned
    due = rf"^backend 'wrong': loss_and_gradient returned a {type(returned).__name__}, expected a tuple of row losses"
    with pytest.raises(TypeError, match=due):
        getattr(Backend(rows), name)(X, Y)


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax", "gradient", "loss", "log_loss"])
@pytest.mark.parametrize("axis", [-1, LONG_WAY])
@pytest.mark.parametrize("width", ["float32", "float64", "longdouble"])
def test_floats_of_another_width_are_rounded(name, axis, width):
    be = _returning(name, lambda result: result.astype(width))
    x = np.full((2, 3), 0.25, np.float32)
    options = {"reduction": "none"} if METHODS[name] else {}
    got = getattr(be, name)(x, *METHODS[name], axis=axis, **options)
    expected = getattr(Backend(NumpyBackend()), name)(x, *METHODS[name], axis=axis, **options)
    assert got.dtype == expected.dtype == np.float32
    assert np.array_equal(got, expected)
    assert type(be.loss(x, Y)) is np.float64


def test_indices_of_its_own_are_taken_and_floats_are_none():
    assert _returning("argmax", np.copy).argmax(X).tolist() == [0, 0]
    with pytest.raises(
        TypeError, match=r"argmax returned an array of shape \(2,\) and dtype float64, expected .* int64"
    ):
        _returning("argmax", lambda result: result.astype(np.float64)).argmax(X)


def test_bfloat16_of_its_own_is_taken():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    for axis in (-1, LONG_WAY):
        result = _returning("softmax", lambda result: result.astype(bfloat16)).softmax(X[:, :2], axis=axis)
        assert (result.dtype, result.tolist()) == (np.float32, [[0.5, 0.5]] * 2)


def test_arrays_in_and_out_go_through_the_backend():
    be = Backend(NumpyBackend())
    assert be.asarray([[1.0]]).tolist() == [[1.0]]
    assert be.to_numpy(X) is X
