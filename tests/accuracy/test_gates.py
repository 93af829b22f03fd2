"""The judge: right results pass on every hard input, each classical mistake is caught, and the message helps."""

import itertools
import math

import numpy as np
import pytest

from softbench.accuracy import oracle
from softbench.accuracy.gates import GATES
from softbench.accuracy.hard_inputs import HARD_INPUTS
from softbench.accuracy.judging import judge
from softbench.interface.dtypes import formats

inf, nan = math.inf, math.nan
NONE = {"reduction": "none"}


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def draw(name, rng, n, k, dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="a bfloat16 array needs ml_dtypes")
    return HARD_INPUTS[name](rng, n, k, dtype)


def caught(verdict, gate=None, *words):
    """The result was refused, at this gate, in these words."""
    assert not verdict.ok, verdict.message
    assert gate is None or verdict.gate == gate
    for word in words:
        assert word in verdict.message
    return verdict


def correct(op, x, *target, **options):
    truth = getattr(oracle, op)(x, *target, **options)
    reduced = op in ("loss", "log_loss") and options.get("reduction", "mean") != "none"
    return truth.rounded("float64" if reduced or x.dtype.kind == "i" else x.dtype.name)


# -- right results -------------------------------------------------------------------------------------


def test_bounds_are_the_contracts():
    """Stated a second time: a change of a gate must be meant."""
    due = {
        "softmax": (4, 4, 1),
        "off_label_gradient": (4, 4, 1),
        "label_gradient": (4, 4, 1),
        "log_softmax": (4, 4, 1),
        "index_loss": (4, 4, 1),
        "logsumexp": (4, 4, 4),
        "soft_loss": (8, 8, 1),
        "soft_gradient": (8, 8, 8),
        "log_loss": (2, 2, 2),
        "soft_log_loss": (2, 2, 2),
        "reduced_loss": (4, 4, 4),
    }
    names = ("float64", "float32", "float16")
    assert {name: tuple(gate.bounds[d] for d in names) for name, gate in GATES.items()} == due
    assert all(gate.bounds["bfloat16"] == gate.bounds["float16"] for gate in GATES.values())
    assert {name for name, gate in GATES.items() if gate.subnormal == 1} == {
        "softmax",
        "off_label_gradient",
        "label_gradient",
    }


@pytest.mark.parametrize("dtype", sorted(formats))
@pytest.mark.parametrize("name", HARD_INPUTS)
def test_correctly_rounded_results_pass(name, dtype, rng):
    n, k = 4, 21
    x = draw(name, rng, n, k, dtype)
    y, q = rng.integers(0, k, n), rng.dirichlet(np.ones(k), n)
    weights = {"sample_weight": rng.uniform(0, 2, n), "class_weight": rng.uniform(0, 2, k)}
    for op in ("softmax", "log_softmax", "logsumexp"):
        verdict = judge(op, correct(op, x), x)
        assert verdict.ok, verdict.message
        assert verdict.max_ulp <= (2 if op == "logsumexp" else 0.5)
    for op, target, options in itertools.product(
        ("loss", "gradient"), (y, q), ({}, NONE, weights, {"label_smoothing": 0.1, **weights})
    ):
        verdict = judge(op, correct(op, x, target, **options), x, target, **options)
        assert verdict.ok, verdict.message
        assert verdict.within_contract
        assert verdict.max_ulp <= (0.5 if verdict.gate.endswith(("label_gradient", "index_loss", "soft_loss")) else 4)
    p = correct("softmax", x)
    for target, options in itertools.product((y, q), (NONE, weights)):
        assert judge("log_loss", correct("log_loss", p, target, **options), p, target, **options).ok


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    ("op", "target", "gate"),
    [
        ("softmax", None, "softmax"),
        ("log_softmax", None, "log_softmax"),
        ("loss", "index", "index_loss"),
        ("loss", "soft", "soft_loss"),
        ("gradient", "index", "label_gradient"),
        ("gradient", "index", "off_label_gradient"),
        ("log_loss", "index", "log_loss"),
        ("log_loss", "soft", "soft_log_loss"),
    ],
)
def test_the_bound_is_where_the_table_says(op, target, gate, dtype, rng):
    x = draw("normal-1", rng, 30, 9, dtype)
    if op == "log_loss":
        x = correct("softmax", x)
    arguments = {None: [], "index": [rng.integers(0, 9, 30)], "soft": [rng.dirichlet(np.ones(9), 30)]}[target]
    options = NONE if target else {}
    right = correct(op, x, *arguments, **options)
    bound = GATES[gate].bounds[dtype]

    def shifted(by):
        """One entry per row moved away from 0 by some ulp."""
        result = right.copy()
        where = np.zeros(result.shape, bool)
        if op == "gradient":
            classes = arguments[0] if gate == "label_gradient" else (arguments[0] + 1) % 9
            where[np.arange(30), classes] = True
        else:
            where[(np.arange(30),) if result.ndim == 1 else (np.arange(30), 2)] = True
        result[where] += (by * np.copysign(np.spacing(np.abs(right)), right))[where]
        return result

    # Entries are up to half an ulp off already; an ulp may double on the way, which halves the count.
    assert judge(op, shifted(math.floor((bound - 0.5) / 1)), x, *arguments, **options).ok or bound == 1
    verdict = judge(op, shifted(math.ceil(2 * bound + 1)), x, *arguments, **options)
    caught(verdict, gate)
    assert verdict.stats[gate].max > bound
    assert bound + 0.5 <= verdict.max_ulp <= 2 * bound + 2


def test_logsumexp_gate_in_its_own_terms():
    # lse = 2**20 + log 2: one ulp of the result is far more than 4 ulp of log1p(s), so half an ulp leaves room.
    x = np.full((1, 2), 2.0**20)
    truth = oracle.logsumexp(x)
    one = np.copysign(np.spacing(truth.hi), truth.lo)  # towards the truth, and beyond
    assert judge("logsumexp", truth.hi + one, x).ok
    caught(judge("logsumexp", truth.hi + 2 * one, x), "logsumexp")
    caught(judge("logsumexp", truth.hi - one, x), "logsumexp")  # 1.2 ulp from the truth, 1 from its leading part
    # m and log1p(s) cancel: the result is far smaller than an ulp of log1p(s), of which 4 are allowed.
    x = np.full((1, 2), -math.log(2.0))
    right = correct("logsumexp", x)
    one = np.spacing(math.log(2.0))
    assert judge("logsumexp", right + 3.9 * one, x).ok
    caught(judge("logsumexp", right + 4.1 * one, x), "logsumexp")
    # Half precision: the inner part is float32's.
    x = np.float16([[0.0, -8.0]])
    assert judge("logsumexp", correct("logsumexp", x), x).ok
    caught(judge("logsumexp", np.nextafter(np.nextafter(correct("logsumexp", x), np.float16(1)), np.float16(1)), x))


def test_soft_gradient_gate_is_absolute():
    # p = q = 1/2: the gradient is 0, and 8 u (sum q) p are allowed around it.
    x, q = np.zeros((1, 2)), np.full((1, 2), 0.5)
    u = 2.0**-53
    for error, ok in ((4.0 * u, True), (4.1 * u, False)):
        assert judge("gradient", np.array([[error, -error]]), x, q, reduction="sum").ok is ok
    # p = 0: 2 u |g|, and no more.
    x, q = np.array([[0.0, -1e4]]), np.array([[0.0, 1.0]])
    for ulps, ok in ((1, True), (2, False)):
        result = correct("gradient", x, q)
        result[0, 1] -= ulps * 2 * u
        assert judge("gradient", result, x, q).ok is ok


# -- mistakes ------------------------------------------------------------------------------------------


def shift(x):
    m = x.max(axis=1, keepdims=True)
    e = np.exp(x - m)
    return m[:, 0], e, e.sum(axis=1)


def textbook_loss(x, y):
    m, _, total = shift(x)
    return (m + np.log(total)) - x[np.arange(len(y)), y]


def textbook_gradient(x, y):
    _, e, total = shift(x)
    p = e / total[:, None]
    p[np.arange(len(y)), y] -= 1
    return p


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lse_minus_x(dtype, rng):
    x = draw("offset", rng, 5, 30, dtype)
    y = rng.integers(0, 30, 5)
    verdict = caught(judge("loss", textbook_loss(x, y), x, y, **NONE), "index_loss", "common offset", "label", "row")
    assert verdict.max_ulp > 1e3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_p_minus_one(dtype, rng):
    x = draw("one-dominant", rng, 5, 30, dtype)
    y = oracle.argmax(x)
    caught(judge("gradient", textbook_gradient(x, y), x, y, **NONE), "label_gradient", "leave the label out")


def test_log_of_the_whole_sum(rng):
    x = draw("one-dominant", rng, 5, 30, "float64")
    m, _, total = shift(x)
    caught(judge("log_softmax", x - m[:, None] - np.log(total)[:, None], x), "log_softmax", "log1p")
    caught(judge("log_softmax", np.log(np.exp(x - m[:, None]) / total[:, None]), x), "log_softmax")


def test_scipys_known_zero():
    x = np.array([[0.0, -40.0]])
    result = correct("log_softmax", x)
    result[0, 0] = 0.0  # what scipy.special.log_softmax returns (scipy#19521)
    verdict = caught(judge("log_softmax", result, x), "log_softmax", "class 0", "logit 0", "-4.24835")
    assert verdict.max_ulp > 1e15


def test_log_instead_of_log1p_in_logsumexp():
    x = np.array([[0.0, -40.0]])
    caught(judge("logsumexp", np.array([0.0]), x), "logsumexp", "log1p")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "k"), [("normal-1", 30_000), ("two-dominant", 1000)])
def test_running_sum_in_the_dtype(name, k, dtype, rng):
    x = draw(name, rng, 2, k, dtype)
    right = correct("softmax", x)
    e = (right / right.max(axis=1, keepdims=True)).astype(dtype)
    plain = np.add.accumulate(np.sort(e)[:, ::-1], axis=1)[:, -1:]  # one after the other, the largest first
    caught(judge("softmax", e / plain, x), "softmax", "wider format")
    assert judge("softmax", e / np.array([[math.fsum(row)] for row in e]).astype(dtype), x).ok


@pytest.mark.parametrize("name", ["uniform-600", "normal-30"])
def test_rounded_shift(name, rng):
    x = draw(name, rng, 20, 30, "float64")
    _, e, total = shift(x)
    caught(judge("softmax", e / total[:, None], x), "softmax", "error-free shift")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_slightly_wrong_denominator(dtype, rng):
    x = draw("normal-4", rng, 5, 30, dtype)
    factor = {"float32": 0.999999, "float64": 0.9999999999}[dtype]
    caught(judge("softmax", (correct("softmax", x) / factor).astype(dtype), x), "softmax")


def test_zeros_for_long_rows():
    x = np.zeros((1, 70_000), np.float16)
    caught(judge("softmax", np.zeros_like(x), x), "softmax")
    assert judge("softmax", np.full_like(x, 1 / 70_000), x).ok


def test_half_precision_inside(rng):
    x = draw("normal-4", rng, 5, 100, "float16")
    _, e, total = shift(x)
    assert e.dtype == np.float16
    caught(judge("softmax", e / total[:, None], x), "softmax")


def test_flushed_subnormals_must_be_declared(rng):
    x = draw("subnormal", rng, 5, 10, "float32")
    result = correct("softmax", x)
    result[result < np.finfo(np.float32).smallest_normal] = 0
    caught(judge("softmax", result, x), "softmax")
    assert judge("softmax", result, x, flushes_subnormals=True).ok


def test_subnormal_probabilities_have_one_spacing():
    x = np.float32([[0.0, -95.0]])
    result = correct("softmax", x)
    step = np.zeros((1, 2), np.float32)
    step[0, 1] = np.copysign(2.0**-149, oracle.softmax(x).hi[0, 1] - result[0, 1])  # towards the truth, and beyond
    assert judge("softmax", result + step, x).ok
    verdict = caught(judge("softmax", result + 2 * step, x), "softmax")
    assert verdict.bound == verdict.contract == 1


def test_sum_of_losses_in_float32(rng):
    x = draw("normal-4", rng, 50_000, 3, "float32")
    y = rng.integers(0, 3, 50_000)
    row = correct("loss", x, y, **NONE)
    assert row.dtype == np.float32
    caught(judge("loss", np.float64(np.add.accumulate(row)[-1]), x, y, reduction="sum"), "reduced_loss", "sum of 50000")
    assert judge("loss", row.sum(dtype=np.float64), x, y, reduction="sum").ok


def test_each_loss_in_a_sum_may_underflow_in_the_logits_dtype():
    x, y = np.float32([[0.0, -95.0]] * 3), [0, 0, 0]  # losses of 5.5e-42
    row = correct("loss", x, y, **NONE)
    assert judge("loss", row.sum(dtype=np.float64), x, y, reduction="sum").ok
    caught(judge("loss", np.float64(0), x, y, reduction="sum"), "reduced_loss")
    assert judge("loss", row.mean(dtype=np.float64), x, y).ok
    caught(judge("loss", row.mean(dtype=np.float64) + 2.0**-148, x, y), "reduced_loss")


def test_mean_over_rows_instead_of_weights(rng):
    x, y = draw("normal-1", rng, 6, 4, "float64"), rng.integers(0, 4, 6)
    w = rng.uniform(0.5, 2, 4)
    total = correct("loss", x, y, class_weight=w, reduction="sum")
    caught(judge("loss", total / 6, x, y, class_weight=w), "reduced_loss")
    wrong = correct("gradient", x, y, class_weight=w, reduction="sum") / 6
    caught(judge("gradient", wrong, x, y, class_weight=w))


def test_soft_gradient_that_takes_the_target_sum_for_one(rng):
    x, q = draw("normal-1", rng, 4, 6, "float64"), 2 * rng.dirichlet(np.ones(6), 4)
    wrong = correct("softmax", x) - q
    caught(judge("gradient", wrong, x, q, **NONE), "soft_gradient", "sum q", "target")


def test_soft_loss_through_log_of_probabilities(rng):
    x = draw("one-dominant", rng, 4, 6, "float64")
    q = np.eye(6)[oracle.argmax(x)]
    _, e, total = shift(x)
    wrong = -(q * np.log(e / total[:, None])).sum(axis=1)
    caught(judge("loss", wrong, x, q, **NONE), "soft_loss")


def test_negative_targets_are_judged_by_the_size_of_the_terms():
    # log 2 - log 2: the terms cancel, so the result may be off by 8 ulp of their sizes' sum, 2 log 2.
    x, q = np.array([[0.0, 0.0]]), np.array([[1.0, -1.0]])
    allowed = 8 * np.spacing(2 * math.log(2.0))
    assert judge("loss", np.array([allowed]), x, q, **NONE).ok
    caught(judge("loss", np.array([1.2 * allowed]), x, q, **NONE), "soft_loss")


def test_smoothing_ignored(rng):
    x, y = draw("normal-1", rng, 6, 4, "float64"), rng.integers(0, 4, 6)
    for op, gate in (("loss", "soft_loss"), ("gradient", "soft_gradient")):
        wrong = correct(op, x, y, **NONE)
        caught(judge(op, wrong, x, y, label_smoothing=0.1, **NONE), gate)


@pytest.mark.parametrize("zero", [nan, -0.0, 5e-324])
def test_ignored_rows_must_be_plus_zero(zero, rng):
    x, y = draw("normal-1", rng, 3, 4, "float64"), np.array([1, -1, 2])
    options = {"ignore_index": -1, **NONE}
    for op in ("loss", "gradient"):
        result = correct(op, x, y, **options)
        assert judge(op, result, x, y, **options).ok
        result[1] = zero
        caught(judge(op, result, x, y, **options), None, "select, don't multiply")


def test_clipped_log_loss():
    p = np.array([[1e-20, 1.0]])
    wrong = -np.log(np.clip(p, 1e-15, 1))[:, 0]
    caught(judge("log_loss", wrong, p, [0], **NONE), "log_loss", "clipping")
    caught(judge("log_loss", np.array([-math.log(5e-324)]), np.array([[0.0, 1.0]]), [0], **NONE), "log_loss")


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}])
def test_ignored_rows_may_hold_anything(options, rng):
    x, y = draw("normal-1", rng, 3, 4, "float64"), np.array([1, -1, 2])
    x[1] = nan
    options = {"ignore_index": -1, **options}
    for op in ("loss", "gradient"):
        verdict = judge(op, correct(op, x, y, **options), x, y, **options)
        assert verdict.ok, verdict.message


@pytest.mark.parametrize(("spoilt", "wrong"), [(nan, 0.5), (inf, 1.0), (inf, 0.0)])
def test_rows_that_must_be_nan(spoilt, wrong):
    x = np.array([[0.0, 1.0], [spoilt, 0.0]])
    result = correct("softmax", x)
    assert judge("softmax", result, x).ok
    result[1, 1] = wrong
    caught(judge("softmax", result, x), "softmax", "expected nan", "row 1")


def test_one_wrong_entry_among_many_is_found(rng):
    x = draw("normal-1", rng, 40, 1000, "float32")
    result = correct("softmax", x)
    result[17, 513] *= np.float32(1 + 1e-6)
    verdict = caught(judge("softmax", result, x), "softmax", "softmax[17, 513]", "row 17", "class 513", "1 of 40000")
    stats = verdict.stats["softmax"]
    assert stats.worst == (17, 513)
    assert stats.count == 40_000
    assert stats.p999 <= 0.5 < stats.max


# -- the form of results, and what is told -------------------------------------------------------------


def test_wrong_form():
    x = np.zeros((2, 3), np.float32)
    caught(judge("softmax", np.full((2, 3), 1 / 3), x), None, "float64[2, 3]", "expected float32[2, 3]")
    caught(judge("logsumexp", np.zeros((2, 1), np.float32), x), None, "expected float32[2]")
    assert judge("logsumexp", correct("logsumexp", x, keepdims=True), x, keepdims=True).ok
    caught(judge("loss", np.float32(math.log(3)), x, [0, 0]), None, "float32[]", "expected float64[]")
    assert judge("softmax", np.full((1, 2), 0.5), np.array([[3, 3]])).ok  # integers: float64


def test_nothing_to_judge():
    assert judge("softmax", np.zeros((0, 3)), np.zeros((0, 3))).ok
    assert judge("loss", np.float64(nan), np.zeros((0, 3)), np.zeros(0, int)).ok
    caught(judge("loss", np.float64(0), np.zeros((0, 3)), np.zeros(0, int)))


def test_message_names_the_input(rng):
    x = np.array([[0.25, 12.5, -3.0], [0.0, 1.0, 2.0]])
    result = correct("gradient", x, [1, 0], **NONE)
    result[0, 1] *= 1 + 1e-10
    message = caught(judge("gradient", result, x, [1, 0], **NONE), "label_gradient").message
    for part in ("gradient[0, 1]", "float64", "row 0", "class 1", "logit 12.5", "maximum 12.5 at class 1",
                 "label 1 with logit 12.5", "gate 4", "max ", "p99.9 ", "of 2", "1 of 6"):  # fmt: skip
        assert part in message, (part, message)
    assert f"{result[0, 1]:.17g}" in message
    assert f"{oracle.gradient(x, [1, 0], **NONE).hi[0, 1]:.17g}" in message


def test_message_along_another_axis(rng):
    x = rng.normal(0, 1, (2, 5, 3))
    result = correct("softmax", x, axis=1)
    result[1, 4, 2] *= 1.1
    message = caught(judge("softmax", result, x, axis=1)).message
    assert "softmax[1, 4, 2]" in message
    assert f"row 1, 2, class 4, logit {x[1, 4, 2]:.17g}" in message
    y = rng.integers(0, 5, (2, 3))
    result = correct("loss", x, y, axis=1, **NONE)
    result[1, 0] *= 1.1
    assert f"row 1, 0, maximum {x[1, :, 0].max():.17g}" in judge("loss", result, x, y, axis=1, **NONE).message
    lse = correct("logsumexp", x, axis=1, keepdims=True)
    lse[0, 0, 2] += 1
    assert "row 0, 2," in judge("logsumexp", lse, x, axis=1, keepdims=True).message
    assert "the only row, class 1" in judge("softmax", np.array([0.5, 0.6]), np.zeros(2)).message


def test_declared_bounds(rng):
    x = draw("uniform-350", rng, 20, 30, "float64")
    _, e, total = shift(x)
    result = e / total[:, None]
    caught(judge("softmax", result, x))
    for declared in ({"softmax": 1000}, {"softmax": {"float64": 1000.0}}):
        verdict = judge("softmax", result, x, declared=declared)
        assert verdict.ok
        assert not verdict.within_contract
        assert (verdict.bound, verdict.contract) == (1000, 4)
        assert "gate 1000 as declared (contract 4)" in verdict.message
    caught(judge("softmax", result, x, declared={"softmax": {"float32": 1000.0}}))  # declared for another dtype
    caught(judge("softmax", result, x, declared={"log_softmax": 1000}))  # for another function
    caught(judge("softmax", 2 * result, x, declared={"softmax": 1000}), "softmax", "as declared (contract 4)")
