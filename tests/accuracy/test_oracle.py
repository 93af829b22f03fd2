"""The oracle: its digits against ball arithmetic, its semantics against hand-made cases, a textbook and PyTorch."""

import ast
import inspect
import itertools
import math
import sys

import numpy as np
import pytest

from softbench.accuracy import arb, gates, numpy_engine, oracle, ulp
from softbench.accuracy import hard_inputs as inputs
from softbench.accuracy.hard_inputs import HARD_INPUTS
from softbench.accuracy.ulp import spacing
from softbench.interface.dtypes import formats, numpy_dtype

inf, nan = math.inf, math.nan

FLOAT64_LIMIT = 0.05  # ulp of float64
NARROW_LIMIT = 1e-3  # ulp of float32; the halves are coarser still

X87 = pytest.mark.skipif(
    not oracle.HAS_X87, reason="longdouble is not the 80-bit format here: the oracle is Arb itself"
)


def need(dtype):
    pytest.importorskip("flint", reason="the judge is Arb, from python-flint")
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="a bfloat16 array needs ml_dtypes")


def distance(got, due, unit):
    """Largest difference of two truths in ``unit``; inf where they disagree on NaN or infinity.

    Below float64's normal range truths are rounded to a spacing, in which two right ones may differ by one.
    """
    finite = np.isfinite(due.hi)
    same = np.where(finite, np.isfinite(got.hi), (got.hi == due.hi) | (np.isnan(got.hi) & np.isnan(due.hi)))
    if not same.all():
        return inf
    with np.errstate(invalid="ignore"):
        error = np.abs((got.hi - due.hi) + (got.lo - due.lo))
    underflow = np.where(np.abs(due.hi) < np.finfo(np.float64).smallest_normal, 2.0**-1074, 0.0)
    with np.errstate(invalid="ignore"):
        return float(np.max(np.where(finite, np.maximum(error - underflow, 0.0) / unit, 0.0), initial=0.0))


def assert_close(op, dtype, *arguments, **options):
    """The oracle and Arb agree far better than a result of ``dtype`` could tell."""
    function = getattr(oracle, op)
    got, due = function(*arguments, **options), function(*arguments, arithmetic="arb", **options)
    narrow = "float64" if dtype == "float64" else "float32"
    unit = spacing(due, narrow)
    if op == "logsumexp":  # m and log1p(s) may cancel: the gate's unit
        unit = unit + spacing(oracle.log1p_s(*arguments, **options, arithmetic="arb"), narrow)
    if op == "gradient" and (np.ndim(arguments[1]) == np.ndim(arguments[0]) or options.get("label_smoothing")):
        mass = oracle.probability_mass(*arguments, arithmetic="arb", **options)
        unit = np.maximum(unit, spacing(mass, narrow))  # (sum q) p - q may cancel
    error = distance(got, due, unit)
    limit = FLOAT64_LIMIT if dtype == "float64" else NARROW_LIMIT
    assert error <= limit, f"{op} {dtype} {options}: {error:.3g} ulp from Arb, allowed {limit}"


OPTIONS = {
    "plain": {},
    "none": {"reduction": "none"},
    "sum": {"reduction": "sum"},
    "smoothed": {"label_smoothing": 0.1},
    "weighted": {"reduction": "none", "weights": 1.0},
    "weighted-smoothed-mean": {"label_smoothing": 1 / 3, "weights": 1.0},
    "scaled-up": {"reduction": "none", "weights": 1e60},
    "scaled-far-up": {"reduction": "sum", "weights": 1e140},
}


def with_weights(options, rng, n, k):
    options = dict(options)
    scale = options.pop("weights", None)
    if scale is not None:
        options |= {"sample_weight": scale * rng.uniform(0, 2, n), "class_weight": scale * rng.uniform(0, 2, k)}
    return options


@pytest.mark.parametrize("dtype", sorted(formats))
@pytest.mark.parametrize("name", HARD_INPUTS)
def test_agrees_with_ball_arithmetic(name, dtype):
    need(dtype)
    rng = np.random.default_rng(3)
    for k in (1, 2, 19):
        x = HARD_INPUTS[name](rng, 3, k, dtype)
        for op in ("logsumexp", "log1p_s", "softmax", "log_softmax"):
            assert_close(op, dtype, x)
        y = rng.integers(0, k, 3)
        y[0] = oracle.argmax(x)[0]  # label at the maximum: the loss is log1p(s)
        q = rng.dirichlet(np.ones(k), 3).astype(x.dtype)
        for options in OPTIONS.values():
            given = with_weights(options, rng, 3, k)
            for op in ("loss", "gradient"):
                assert_close(op, dtype, x, y, **given)
                assert_close(op, dtype, x, q, **given)


@pytest.mark.parametrize("dtype", sorted(formats))
def test_log_loss_agrees_with_ball_arithmetic(dtype):
    need(dtype)
    rng = np.random.default_rng(4)
    for name, k in itertools.product(("normal-4", "one-dominant", "subnormal", "some-absent"), (1, 2, 40)):
        p = np.minimum(oracle.softmax(HARD_INPUTS[name](rng, 4, k, dtype)).rounded(dtype), 1)
        y, q = rng.integers(0, k, 4), rng.dirichlet(np.ones(k), 4)
        for reduction in ("none", "sum", "mean"):
            s, w = rng.uniform(0, 2, 4), rng.uniform(0, 2, k)
            assert_close("log_loss", dtype, p, y, reduction=reduction, sample_weight=s, class_weight=w, ignore_index=0)
            assert_close("log_loss", dtype, p, q, reduction=reduction, sample_weight=s, class_weight=w)


@X87
@pytest.mark.parametrize("name", ["normal-1", "uniform-600", "equal", "two-dominant", "offset"])
def test_long_rows_agree_with_ball_arithmetic(name):
    need("float64")
    rng = np.random.default_rng(5)
    k = 30_000 if name == "normal-1" else 5_000
    x = HARD_INPUTS[name](rng, 1, k, "float64")
    y, q = rng.integers(0, k, 1), rng.dirichlet(np.ones(k), 1)
    assert_close("log_softmax", "float64", x)
    assert_close("gradient", "float64", x, y)
    assert_close("loss", "float64", x, q, reduction="none")


def test_a_huge_margin_leaves_every_digit_of_loss_and_label_gradient():
    for margin in (40.0, 200.0, 700.0):
        x = np.array([[0.0, -margin]])
        due = math.exp(-margin)  # log1p(e) - e and e/(1+e) - e are below half an ulp of e
        assert oracle.loss(x, [0]).hi == pytest.approx(due, rel=2e-16)
        assert oracle.gradient(x, [0]).hi[0] == pytest.approx([-due, due], rel=2e-16)


def test_weights_lift_what_underflows():
    # exp(-800) is 0 in float64, but not times 1e300; nor does a weighted sum of such terms lose digits.
    need("float64")
    for dtype in ("float32", "float64"):
        x = np.array([[0.0, -800.0, -801.0]], dtype)
        for weight in (1e60, 1e300):
            for options in ({"sample_weight": [weight]}, {"sample_weight": [1e150], "class_weight": [weight] * 3}):
                assert_close("gradient", dtype, x, [0], reduction="sum", **options)
                assert_close("loss", dtype, x, [0], reduction="sum", **options)
    lifted = oracle.gradient(np.float32([[0.0, -800.0]]), [0], sample_weight=[1e300], reduction="sum").hi
    assert lifted[0, 1] == pytest.approx(math.exp(-800 + 300 * math.log(10)), rel=1e-12)


@X87
@pytest.mark.parametrize("op", ["softmax", "log_softmax", "gradient"])
def test_a_plain_shift_would_be_seen(op, monkeypatch):
    """The comparison with Arb can fail: without the error-free shift, or summed plainly in float64, it does."""
    need("float64")
    x = HARD_INPUTS["uniform-350"](np.random.default_rng(0), 4, 40, "float64")
    target = [np.zeros(4, np.int64)] if op == "gradient" else []
    assert_close(op, "float64", x, *target)
    shifted = numpy_engine.NumpyEngine._shifted

    def rounded_shift(self, x):
        row = shifted(self, x)
        e = np.exp(row.d)
        e[np.arange(len(x)), row.top] = 0
        s = e.sum(axis=1)
        e[np.arange(len(x)), row.top] = 1
        return row._replace(r=0 * row.r, e=e, s=s, L=np.log1p(s))

    monkeypatch.setattr(numpy_engine.NumpyEngine, "_shifted", rounded_shift)
    with pytest.raises(AssertionError, match="ulp from Arb"):
        assert_close(op, "float64", x, *target)


def test_without_80_bit_longdouble_arb_takes_over(monkeypatch):
    need("float64")
    rng = np.random.default_rng(6)
    x, y = rng.normal(0, 30, (3, 9)), rng.integers(0, 9, 3)
    due = oracle.gradient(x, y, arithmetic="arb")
    monkeypatch.setattr(oracle, "HAS_X87", False)
    for got, part in zip(oracle.gradient(x, y), due, strict=True):
        np.testing.assert_array_equal(got, part)
    with pytest.raises(RuntimeError, match="arb"):
        oracle.gradient(x, y, arithmetic="longdouble")
    assert oracle.softmax(x.astype(np.float32)).lo.max() == 0  # float32 needs no more than float64


def test_arb_refuses_to_guess(monkeypatch):
    need("float64")
    monkeypatch.setattr(arb, "GOOD_BITS", 1 << 14)
    with pytest.raises(ArithmeticError, match="good bits"):
        oracle.softmax([[0.0, 1.0]], arithmetic="arb")


def test_arb_doubles_its_precision_until_the_bits_are_good(monkeypatch):
    need("float64")
    x = np.array([[1e308, 1.0, 1e308 * (1 - 2.0**-52)], [3.0, 3.0 - 2e-16, -1e-300]])
    assert_close("log_softmax", "float64", x)
    cancelling = np.full((1, 2), -math.log(2.0))  # logsumexp is 17 digits smaller than its two parts
    due = oracle.logsumexp(cancelling, arithmetic="arb")
    assert 0 < abs(due.hi[0]) < 1e-16
    monkeypatch.setattr(arb, "_START", 24)
    assert distance(oracle.logsumexp(cancelling, arithmetic="arb"), due, abs(due.hi)) <= 2.0**-79


def test_missing_python_flint_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "flint", None)
    with pytest.raises(ImportError, match=r"python-flint: pip install"):
        oracle.softmax([[0.0]], arithmetic="arb")


# -- semantics -----------------------------------------------------------------------------------------

SPECIAL = [  # logits, lse, p
    ([0.0, -inf, 0.0], math.log(2.0), [0.5, 0.0, 0.5]),
    ([-inf, 3.0], 3.0, [0.0, 1.0]),
    ([-inf, -inf], -inf, [nan, nan]),
    ([0.0, inf], inf, [nan, nan]),
    ([inf, inf, -inf], inf, [nan, nan, nan]),
    ([nan, 0.0], nan, [nan, nan]),
    ([inf, nan, -inf], nan, [nan, nan, nan]),
    ([7.0], 7.0, [1.0]),
    ([-inf], -inf, [nan]),
    ([1e308, -1e308], 1e308, [1.0, 0.0]),
]


@pytest.mark.parametrize("arithmetic", [None, "arb"])
@pytest.mark.parametrize(("x", "lse", "p"), SPECIAL)
def test_special_rows(x, lse, p, arithmetic):
    if arithmetic:
        need("float64")
    k = len(x)
    np.testing.assert_array_equal(oracle.logsumexp([x], arithmetic=arithmetic).hi, [lse])
    np.testing.assert_array_equal(oracle.softmax([x], arithmetic=arithmetic).hi, [p])
    logs = oracle.log_softmax([x], arithmetic=arithmetic).hi
    np.testing.assert_array_equal(np.isneginf(logs), [np.array(p) == 0])
    for label in range(k):
        kept = {"arithmetic": arithmetic, "reduction": "none"}
        (loss,) = oracle.loss([x], [label], **kept).hi
        onehot = [[float(j == label) for j in range(k)]]
        np.testing.assert_array_equal(oracle.loss([x], onehot, **kept).hi, [loss])
        assert math.isnan(loss) == math.isnan(p[0])
        assert (loss == inf) == (p[label] == 0)
        g = oracle.gradient([x], [label], **kept).hi[0]
        due = np.where(np.arange(k) == label, np.array(p) - 1, p)
        np.testing.assert_array_equal(g, due)
        np.testing.assert_array_equal(oracle.gradient([x], onehot, **kept).hi[0], due)
        ignored = {"ignore_index": label, **kept}
        for zero in (oracle.loss([x], [label], **ignored).hi, oracle.gradient([x], [label], **ignored).hi):
            assert (zero == 0).all()
            assert not np.signbit(zero).any()


@pytest.mark.parametrize("arithmetic", [None, "arb"])
def test_one_class_is_exactly_plus_zero(arithmetic):
    if arithmetic:
        need("float64")
    for target in ([0], [[1.0]]):
        for op in (oracle.loss, oracle.gradient):
            value = op([[7.5]], target, arithmetic=arithmetic).hi
            assert (value == 0).all()
            assert not np.signbit(value).any()


def test_argmax():
    x = [[1.0, nan, inf], [0.0, -0.0, -1.0], [-inf, -inf, -inf], [0.0, 1e-17, 0.0], [1.0, 3.0, 3.0]]
    np.testing.assert_array_equal(oracle.argmax(x), [1, 0, 0, 1, 1])
    np.testing.assert_array_equal(oracle.argmax(np.transpose(x), axis=0), [1, 0, 0, 1, 1])
    with pytest.raises(ValueError, match="no classes"):
        oracle.argmax(np.zeros((2, 0)))


def test_nothing_and_no_classes():
    assert oracle.softmax(np.zeros((0, 3))).hi.shape == (0, 3)
    assert oracle.loss(np.zeros((0, 3)), np.zeros(0, int), reduction="none").hi.shape == (0,)
    assert oracle.loss(np.zeros((0, 3)), np.zeros(0, int), reduction="sum").hi == 0
    assert np.isnan(oracle.loss(np.zeros((0, 3)), np.zeros(0, int)).hi)
    np.testing.assert_array_equal(oracle.logsumexp(np.zeros((2, 0))).hi, [-inf, -inf])
    with pytest.raises(ValueError, match="labels"):
        oracle.loss(np.zeros((2, 0)), [0, 0])


@pytest.mark.parametrize("arithmetic", [None, "arb"])
def test_no_weight_is_nan_except_in_ignored_rows(arithmetic):
    if arithmetic:
        need("float64")
    x, y = np.zeros((2, 2)), [0, 1]
    for options in ({"class_weight": [0.0, 3.0]}, {"sample_weight": [0.0, 5.0]}):
        options |= {"ignore_index": 1, "arithmetic": arithmetic}
        assert np.isnan(oracle.loss(x, y, **options).hi)
        np.testing.assert_array_equal(oracle.gradient(x, y, **options).hi, [[nan, nan], [0, 0]])
    every = {"ignore_index": 3, "arithmetic": arithmetic}
    assert np.isnan(oracle.loss(x, [3, 3], **every).hi)
    assert oracle.loss(x, [3, 3], reduction="sum", **every).hi == 0
    np.testing.assert_array_equal(oracle.gradient(x, [3, 3], **every).hi, np.zeros((2, 2)))


@pytest.mark.parametrize("arithmetic", [None, "arb"])
def test_labels_that_are_no_class(arithmetic):
    if arithmetic:
        need("float64")
    x = np.zeros((3, 2))
    options = {"reduction": "none", "class_weight": [1.0, 1.0], "arithmetic": arithmetic}
    np.testing.assert_array_equal(np.isnan(oracle.loss(x, [0, 2, -1], **options).hi), [False, True, True])
    g = oracle.gradient(x, [0, 2, -1], **options).hi
    np.testing.assert_array_equal(g, [[-0.5, 0.5], [nan, nan], [nan, nan]])
    options |= {"reduction": "mean", "class_weight": [2.0, 3.0]}  # they count with class weight 1: 2 + 1 + 1
    np.testing.assert_array_equal(oracle.gradient(x, [0, 2, -1], **options).hi[0], [-0.25, 0.25])


def test_weights_multiply_and_do_not_select():
    x = [[nan, 0.0], [0.0, 0.0]]
    assert np.isnan(oracle.loss(x, [0, 1], sample_weight=[0.0, 1.0], reduction="sum").hi)


def test_unsummed_and_negative_targets():
    x, q = np.array([[0.5, -1.0, 2.0]]), np.array([[0.7, -0.2, 0.9]])
    lse = float(oracle.logsumexp(x).hi[0])
    assert oracle.loss(x, q, reduction="sum").hi == pytest.approx(float((q * (lse - x)).sum()), rel=1e-14)
    due = q.sum() * np.exp(x - lse) - q
    np.testing.assert_allclose(oracle.gradient(x, q).hi, due, rtol=1e-13)


def test_log_loss_of_zero():
    p = [[0.0, 1.0], [0.25, 0.75]]
    np.testing.assert_array_equal(oracle.log_loss(p, [1, 0], reduction="none").hi, [0.0, math.log(4.0)])
    np.testing.assert_array_equal(oracle.log_loss(p, [0, 0], reduction="none").hi, [inf, math.log(4.0)])
    np.testing.assert_array_equal(oracle.log_loss(p, [[0.0, 1.0], [1.0, 0.0]], reduction="none").hi, [0, math.log(4.0)])
    assert not np.signbit(oracle.log_loss([[1.0]], [0]).hi)


def textbook(x, target, class_weight, sample_weight, ignore_index, eps, reduction):
    """Loss and gradient of rows ``(N, K)`` as one would write them down, for tame inputs."""
    n, k = x.shape
    w = [1.0] * k if class_weight is None else class_weight
    s = [1.0] * n if sample_weight is None else sample_weight
    total, divisor, losses, gradients = 0.0, 0.0, [], []
    for i in range(n):
        z = sum(math.exp(v) for v in x[i])
        p = [math.exp(v) / z for v in x[i]]
        index = target.ndim == 1
        if index and target[i] == ignore_index:
            losses.append(0.0)
            gradients.append([0.0] * k)
            continue
        y = [float(j == target[i]) for j in range(k)] if index else list(target[i])
        q = [s[i] * w[j] * ((1 - eps) * y[j] + eps / k) for j in range(k)]
        losses.append(sum(-q[j] * math.log(p[j]) for j in range(k)))
        gradients.append([sum(q) * p[j] - q[j] for j in range(k)])
        total += losses[-1]
        divisor += s[i] * (w[target[i]] if index else 1.0)
    gradients = np.array(gradients) / (divisor if reduction == "mean" else 1.0)
    return (np.array(losses) if reduction == "none" else total / (divisor if reduction == "mean" else 1.0)), gradients


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("eps", [0.0, 0.2, 1.0])
def test_options_compose_as_in_the_textbook(reduction, eps):
    rng = np.random.default_rng(7)
    n, k = 6, 5
    x, y, q = rng.normal(0, 1, (n, k)), rng.integers(0, k, n), rng.dirichlet(np.ones(k), n)
    s, w = rng.uniform(0.5, 2, n), rng.uniform(0.5, 2, k)
    for cw, sw, target, ignore in itertools.product((None, w), (None, s), (y, q), (None, int(y[2]))):
        if target is q and ignore is not None:
            continue
        due = textbook(x, target, cw, sw, ignore, eps, reduction)
        options = {"class_weight": cw, "sample_weight": sw, "ignore_index": ignore, "label_smoothing": eps}
        loss = oracle.loss(x, target, reduction=reduction, **options)
        np.testing.assert_allclose(loss.hi, due[0], rtol=1e-13)
        # The textbook's p - 1 cancels; its error is a few units of the terms' size, here at most 2.
        g = oracle.gradient(x, target, reduction=reduction, **options)
        mass = oracle.probability_mass(x, target, reduction=reduction, **options).hi
        assert (np.abs(g.hi - due[1]) <= 1e-14 * (mass + np.abs(due[1]))).all()


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_options_compose_as_in_pytorch(reduction):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rng = np.random.default_rng(8)
    n, k = 7, 5
    x, y, q = rng.normal(0, 1, (n, k)), rng.integers(0, k, n), rng.dirichlet(np.ones(k), n)
    w = rng.uniform(0.5, 2, k)
    for eps, cw, target, ignore in itertools.product((0.0, 0.3), (None, w), (y, q), (None, int(y[0]))):
        if target is q and ignore is not None:
            continue
        logits = torch.tensor(x, requires_grad=True)
        due = torch.nn.functional.cross_entropy(
            logits,
            torch.tensor(target),
            weight=None if cw is None else torch.tensor(cw),
            ignore_index=-100 if ignore is None else ignore,
            label_smoothing=eps,
            reduction=reduction,
        )
        due.sum().backward()
        options = {"class_weight": cw, "ignore_index": ignore, "label_smoothing": eps, "reduction": reduction}
        np.testing.assert_allclose(oracle.loss(x, target, **options).hi, due.detach().numpy(), rtol=1e-13)
        g = oracle.gradient(x, target, **options).hi
        mass = oracle.probability_mass(x, target, **options).hi
        assert (np.abs(g - logits.grad.numpy()) <= 1e-14 * (mass + np.abs(g))).all()


def test_axes_and_shapes():
    rng = np.random.default_rng(9)
    x = rng.normal(0, 4, (2, 5, 3))
    y, q = rng.integers(0, 5, (2, 3)), rng.dirichlet(np.ones(5), (2, 3)).transpose(0, 2, 1)
    s = rng.uniform(0, 1, (2, 3))
    flat = x.transpose(0, 2, 1).reshape(6, 5)
    flat_q = q.transpose(0, 2, 1).reshape(6, 5)

    def lifted(rows):
        return rows.reshape(2, 3, 5).transpose(0, 2, 1)

    np.testing.assert_array_equal(oracle.softmax(x, axis=1).hi, lifted(oracle.softmax(flat).hi))
    np.testing.assert_array_equal(oracle.logsumexp(x, axis=-2).hi, oracle.logsumexp(flat).hi.reshape(2, 3))
    assert oracle.logsumexp(x, axis=1, keepdims=True).hi.shape == (2, 1, 3)
    for target, rows in ((y, y.reshape(6)), (q, flat_q)):
        options = {"reduction": "none"}
        due = oracle.loss(flat, rows, sample_weight=s.reshape(6), **options)
        np.testing.assert_array_equal(
            oracle.loss(x, target, axis=1, sample_weight=s, **options).hi, due.hi.reshape(2, 3)
        )
        due = oracle.gradient(flat, rows, sample_weight=s.reshape(6))
        np.testing.assert_array_equal(oracle.gradient(x, target, axis=1, sample_weight=s).hi, lifted(due.hi))
    assert oracle.loss([1.0, 2.0], 1, reduction="none").hi.shape == ()
    assert oracle.gradient(np.asfortranarray(x), y, axis=1).hi.flags.c_contiguous


def test_blocks_of_rows_do_not_matter(monkeypatch):
    rng = np.random.default_rng(10)
    x, y = rng.normal(0, 4, (50, 7)), rng.integers(-1, 7, 50)
    options = {"sample_weight": rng.uniform(0, 1, 50), "ignore_index": -1}
    due = [oracle.loss(x, y, **options), oracle.gradient(x, y, **options), oracle.softmax(x)]
    monkeypatch.setattr(numpy_engine, "_BLOCK", 30)
    got = [oracle.loss(x, y, **options), oracle.gradient(x, y, **options), oracle.softmax(x)]
    for a, b in zip(got, due, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["bool", "complex64", "longdouble", "object"])
def test_refused_dtypes(dtype):
    with pytest.raises(TypeError):
        oracle.softmax(np.zeros((1, 2), dtype))


def test_integers_are_float64():
    x = np.array([[3, 1, 2]])
    np.testing.assert_array_equal(oracle.softmax(x), oracle.softmax(x.astype(np.float64)))


def test_targets_keep_their_own_digits():
    # 0.1 in float64 is not 0.1 in float32: a float32 call with float64 targets is judged with the latter.
    x = np.zeros((1, 2), np.float32)
    fine, coarse = np.array([[0.1, 0.0]]), np.array([[0.1, 0.0]], np.float32)
    a, b = (float(oracle.loss(x, q, reduction="sum").hi) for q in (fine, coarse))
    assert a == pytest.approx(0.1 * math.log(2.0), rel=1e-15)
    assert a != b


def test_nothing_here_knows_the_front_or_a_backend():
    """What judges must not share code with what is judged."""
    allowed = {
        "softbench.accuracy",
        "softbench.accuracy.arb",
        "softbench.accuracy.engine",
        "softbench.accuracy.numpy_engine",
        "softbench.interface.dtypes",
        "softbench.accuracy.oracle",
        "softbench.accuracy.ulp",
    }
    for module in (ulp, oracle, numpy_engine, arb, gates, inputs):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert {name for name in names if name.startswith("softbench")} <= allowed, module.__name__


@pytest.mark.parametrize("dtype", sorted(formats))
@pytest.mark.parametrize("name", HARD_INPUTS)
def test_hard_inputs(name, dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="a bfloat16 array needs ml_dtypes")
    family = HARD_INPUTS[name]
    assert family.why
    for n, k in ((1, 1), (3, 2), (4, 33)):
        x = family(np.random.default_rng(0), n, k, dtype)
        assert x.shape == (n, k)
        assert x.dtype == numpy_dtype(dtype)
        assert x.flags.c_contiguous
        values = x.astype(np.float64)
        assert not np.isnan(values).any()
        assert np.isfinite(values.max(axis=1)).all()
        assert name == "some-absent" or np.isfinite(values).all()
        again = family(np.random.default_rng(0), n, k, dtype)
        np.testing.assert_array_equal(values, again.astype(np.float64))


def test_hard_inputs_are_what_they_are_named():
    def draw(name, dtype="float64", k=200):
        return HARD_INPUTS[name](np.random.default_rng(1), 20, k, dtype).astype(np.float64)

    assert np.abs(draw("uniform-600")).max() > 500
    assert abs(draw("offset").mean() - 1e6) < 10 > abs(draw("offset-negative").mean() + 1e6)
    assert (np.sort(oracle.softmax(draw("one-dominant")).hi, axis=1)[:, -1] > 0.99).all()
    assert ((draw("two-dominant") == 0).sum(axis=1) <= 2).all()
    assert (np.diff(draw("ascending")) >= 0).all()
    assert (np.diff(draw("descending")) <= 0).all()
    assert ((draw("ties") == draw("ties").max(axis=1)[:, None]).sum(axis=1) > 1).all()
    assert np.isinf(draw("some-absent")).any()
    assert (np.abs(oracle.logsumexp(draw("log-probabilities")).hi) < 1e-14).all()
    for dtype, fmt in formats.items():
        if dtype == "bfloat16" and not pytest.importorskip("ml_dtypes", reason="a bfloat16 array needs ml_dtypes"):
            continue
        p = oracle.softmax(draw("subnormal", dtype)).hi
        small = (p > 0) & (p < 2.0**fmt.emin)
        assert small.mean() > 0.5
        assert np.abs(draw("huge", dtype)).max() > 2.0 ** (fmt.emax - 1)
