"""The backend ``auto``: for every call, the one that was the fastest here for such calls.

It follows the measurements that ``softbench run`` has saved for this machine and number of threads
(`softbench.results.store`), by operation, shape, dtype and form of target; between measured shapes it interpolates, and
where an operation or dtype was not measured, the most similar one stands in. Only backends that promise the whole
contract are taken: of the CPU, without declared deviations or looser gates.

A backend other than NumPy has to be loaded and compiled first. Until that pays calls go to NumPy, and what this costs
more is added up, over all calls of the same operation and dtype: the other one is taken from the call on at which the
sum reaches its start-up. So however many calls there will be, they take at most about twice as long as with the better
of the two.

Where nothing was measured it follows a rule: NumPy at first, and Numba where it can run, once NumPy should have taken
about as long (`PER_CALL`, `PER_LOGIT`) as compiling does (`COMPILING`).

Results of different backends differ in their last bits, within the same bounds (docs/semantics.md): those of a program
that needs the same bits every time should come from one backend, named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from softbench import machine
from softbench.errors import BackendUnavailableError, UnknownBackendError
from softbench.front.backend import Backend
from softbench.interface import RowBackend
from softbench.interface.dtypes import formats
from softbench.results import store
from softbench.results.measurements import Call, Estimate, estimates, start_up
from softbench.results.recommend import LEAST
from softbench.results.units import duration

__all__ = ["NAME", "AutoBackend", "Plan"]

NAME: Final = "auto"
FIRST: Final = "numpy"
"""Who takes calls until another one pays."""
RULE: Final = "numba"
"""Which backend the rule takes in the end."""
COMPILING: Final = 3.0
"""Seconds that a first call of Numba takes at the most, on two cores of 2024."""
PER_LOGIT: Final = 4e-9
"""Seconds that NumPy takes for a logit."""
PER_CALL: Final = 3e-5
"""Seconds that NumPy takes for a call, however small."""
MOST_KNOWN: Final = 4096
"""Kinds of calls that are remembered; a program with more of them starts again."""

_LIKE: Final = {
    "argmax": ("logsumexp", "softmax"),
    "logsumexp": ("softmax",),
    "log_softmax": ("softmax",),
    "log_loss": ("logsumexp", "softmax"),
    "loss": ("logsumexp", "loss_and_gradient", "softmax"),
    "gradient": ("loss_and_gradient", "softmax"),
    "loss_and_gradient": ("gradient", "softmax"),
}
"""Operations whose measurements stand in for one that was not measured itself: the nearest first."""
_LABELLED: Final = ("loss", "gradient", "loss_and_gradient")


class Plan(NamedTuple):
    """What is to become of one kind of call."""

    best: str
    """Who takes it in the end."""
    gain: float
    """Seconds that a call takes less with ``best`` than with NumPy."""
    price: float
    """Seconds that ``best`` costs before its first result."""
    why: str
    times: float | None = None
    """How many times as fast ``best`` is as NumPy; None where NumPy was not measured."""


class _Kind:
    """One kind of call (operation, shape, dtype, form of target): who takes it now."""

    __slots__ = ("backend", "group", "label", "plan", "waiting")

    def __init__(self, plan: Plan, backend: Backend, group: _Group, label: str) -> None:
        self.plan = plan
        self.backend = backend
        self.group = group
        self.label = label
        self.waiting = plan.best != FIRST

    def __str__(self) -> str:
        """Who takes it now, and why."""
        plan = self.plan
        if not self.waiting:
            return f"{self.backend.name}: {plan.why}"
        price = f"the start-up of {plan.best} ({duration(plan.price)})"
        return f"{FIRST}: until calls have made up for {price}; {plan.best}: {plan.why}"


class _Group:
    """Calls of one operation and dtype: what they would have saved with others so far, and which of those are ready."""

    __slots__ = ("missed", "ready")

    def __init__(self) -> None:
        self.missed: dict[str, float] = {}
        self.ready: set[str] = set()


class AutoBackend(Backend):
    """Every function goes to the backend that is the fastest for such calls here; ``be.info()`` says which, and why.

    Parameters
    ----------
    get_backend
        `softbench.registry.get_backend`.
    load
        From the name of a backend to its class; raises as ``get_backend`` does.
    versions
        Versions of the libraries that are installed, as a record has them.
    """

    def __init__(
        self,
        get_backend: Callable[[str], Backend],
        load: Callable[[str], type[RowBackend]],
        versions: dict[str, str],
    ) -> None:
        self._numpy = get_backend(FIRST)
        super().__init__(self._numpy.rows)
        self.name = NAME
        self._get = get_backend
        self._load = load
        self._kinds: dict[Any, _Kind] = {}
        self._groups: dict[tuple[str, str], _Group] = {}
        self._unfit: dict[str, str] = {}
        """Why a backend is not taken; empty: it may be."""
        here, self.threads = machine.fingerprint()["id"], machine.thread_count()
        self.record = store.load(here, self.threads)
        """The measurements that are followed, if there are any."""
        then = self.record["versions"] if self.record else {}
        self.stale = store.changed(then, versions) if self.record else store.others(here, self.threads)
        """Why the measurements are of something else than what is here now, or not used for that."""
        self.disturbed = store.disturbed(self.record)
        """What else went on when it was measured last; empty: nothing that is known."""

    # -- the functions, as `Backend` has them ------------------------------------------------------------------

    def argmax(self, logits: Any, *, axis: int = -1) -> Any:
        """See `softbench.argmax`."""
        return self._pick("argmax", logits, axis).argmax(logits, axis=axis)

    def logsumexp(self, logits: Any, *, axis: int = -1, keepdims: bool = False) -> Any:
        """See `softbench.logsumexp`."""
        return self._pick("logsumexp", logits, axis).logsumexp(logits, axis=axis, keepdims=keepdims)

    def softmax(self, logits: Any, *, axis: int = -1, out: Any = None) -> Any:
        """See `softbench.softmax`."""
        return self._pick("softmax", logits, axis, out).softmax(logits, axis=axis, out=out)

    def log_softmax(self, logits: Any, *, axis: int = -1, out: Any = None) -> Any:
        """See `softbench.log_softmax`."""
        return self._pick("log_softmax", logits, axis, out).log_softmax(logits, axis=axis, out=out)

    def log_loss(self, probs: Any, target: Any, *, axis: int = -1, **options: Any) -> Any:
        """See `softbench.log_loss`."""
        return self._pick("log_loss", probs, axis, None, target).log_loss(probs, target, axis=axis, **options)

    def loss(self, logits: Any, target: Any, *, axis: int = -1, **options: Any) -> Any:
        """See `softbench.loss`."""
        return self._pick("loss", logits, axis, None, target).loss(logits, target, axis=axis, **options)

    def gradient(self, logits: Any, target: Any, *, axis: int = -1, out: Any = None, **options: Any) -> Any:
        """See `softbench.gradient`."""
        chosen = self._pick("gradient", logits, axis, out, target)
        return chosen.gradient(logits, target, axis=axis, out=out, **options)

    def loss_and_gradient(self, logits: Any, target: Any, *, axis: int = -1, out: Any = None, **options: Any) -> Any:
        """See `softbench.loss_and_gradient`."""
        chosen = self._pick("loss_and_gradient", logits, axis, out, target)
        return chosen.loss_and_gradient(logits, target, axis=axis, out=out, **options)

    def info(self) -> dict[str, object]:
        """What is chosen for the calls so far, and why; whether there are measurements, and whether they still hold."""
        measured = self.record.get("started", "at an unknown time") if self.record else None
        return {
            "name": NAME,
            "kind": "cpu",
            "threads": self.threads,
            "measured": measured or "never: softbench run measures; until then a rule is followed",
            "stale": "; ".join(self.stale),
            "disturbed": self.disturbed,
            "chosen": {kind.label: str(kind) for kind in self._kinds.values()},
        }

    # -- who takes a call --------------------------------------------------------------------------------------

    def _pick(self, op: str, logits: Any, axis: Any, out: Any = None, target: Any = None) -> Backend:
        """Who takes a call now."""
        try:  # a number for the dtype: its hash takes as long as all the rest
            form = target is None or target.ndim
            key = op, logits.shape, logits.dtype.num, axis, out is None, out is logits, form
            kind = self._kinds[key]
        except (AttributeError, KeyError, TypeError):
            known = self._meet(op, logits, axis, out, target)
            if known is None:
                return self._numpy
            kind = known
        if kind.waiting:
            self._wait(kind)
        return kind.backend

    def _meet(self, op: str, logits: Any, axis: Any, out: Any, target: Any) -> _Kind | None:
        """The kind of a first call; None where arguments are no arrays, which NumPy's backend refuses."""
        try:
            shape, dtype, classes = logits.shape, logits.dtype, logits.shape[axis]
            rows = math.prod(shape) // classes
            form = "none" if target is None else "soft" if target.ndim == len(shape) else "index"
            key = op, shape, dtype.num, axis, out is None, out is logits, target is None or target.ndim
            hash(key)
        except (AttributeError, IndexError, TypeError, ZeroDivisionError):
            return None
        name = dtype.name if dtype.name in formats else "float64"
        call = Call(op, name, rows, classes, form, "fresh" if out is None else "in place" if out is logits else "out")
        plan = self.plan(call)
        if len(self._kinds) >= MOST_KNOWN:
            self._kinds.clear()
        where = "" if axis in (-1, len(shape) - 1) else f" axis {axis}"
        place = {"fresh": "", "out": "out="}.get(call.result, call.result)
        options = ", ".join(word for word in (form.replace("none", ""), place) if word)
        label = f"{op} {'x'.join(map(str, shape))}{where} {dtype.name}" + (f" ({options})" if options else "")
        kind = _Kind(plan, self._numpy, self._groups.setdefault((op, name), _Group()), label)
        return self._kinds.setdefault(key, kind)

    def _wait(self, kind: _Kind) -> None:
        """Add up what calls on NumPy have cost more; switch once that is as much as loading the other backend costs."""
        plan, group = kind.plan, kind.group
        if plan.best not in group.ready:
            missed = group.missed[plan.best] = group.missed.get(plan.best, 0.0) + plan.gain
            if missed < plan.price:
                return
        kind.waiting = False
        if reason := self._why_unfit(plan.best):
            kind.plan = Plan(FIRST, 0.0, 0.0, f"{plan.best} would be the fastest, but: {reason}")
            return
        group.ready.add(plan.best)
        kind.backend = self._get(plan.best)

    def _why_unfit(self, name: str) -> str:
        """Why a backend is not taken, whatever was measured; empty if it may be. May load its library."""
        if name not in self._unfit:
            try:
                made = self._get(name)
                self._unfit[name] = "" if made.availability().ok else made.availability().reason
            except (BackendUnavailableError, UnknownBackendError) as error:
                self._unfit[name] = str(error)
        return self._unfit[name]

    # -- what is known -----------------------------------------------------------------------------------------

    def plan(self, call: Call) -> Plan:
        """What is to become of calls like this one, from the measurements or by the rule."""
        for like in _stand_ins(call) if self.record else ():
            found = [estimate for estimate in self._known(like) if self._promises_all(estimate.backend)]
            if found:
                return self._measured(call, like, found)
        gain = PER_CALL + PER_LOGIT * call.rows * call.classes
        return Plan(RULE, gain, COMPILING, "by the rule for what was not measured")

    def _known(self, call: Call) -> list[Estimate]:
        assert self.record is not None
        return estimates(self.record, call)

    def _measured(self, call: Call, like: Call, found: list[Estimate]) -> Plan:
        assert self.record is not None
        best = found[0]
        first = next((estimate for estimate in found if estimate.backend == FIRST), None)
        why = f"measured as {best.measured}" if best.measured else "interpolated between measured shapes"
        if (like.op, like.dtype) != (call.op, call.dtype):
            why += f" of {like.op} {like.dtype}"
        if first is None:
            return Plan(best.backend, 0.0, 0.0, why)
        if first.low <= (1.0 + LEAST) * best.high:
            return Plan(FIRST, 0.0, 0.0, why, 1.0)
        why += f", {first.seconds / best.seconds:.3g}x as fast as {FIRST}"
        price = sum(start_up(self.record, best.backend, like))
        return Plan(best.backend, first.seconds - best.seconds, price, why, first.seconds / best.seconds)

    def _promises_all(self, name: str) -> bool:
        """Whether a backend of that name takes NumPy's arrays and promises the whole contract. Loads no library."""
        try:
            cls = self._load(name)
        except (BackendUnavailableError, UnknownBackendError):
            return False
        return cls.kind == "cpu" and not cls.deviations and not cls.gates and not cls.flushes_subnormals


def _stand_ins(call: Call) -> Iterator[Call]:
    """The call itself, then those whose measurements say most about it."""
    given = "in place" if call.result == "out" else "out"
    forms = [(call.target, result) for result in dict.fromkeys([call.result, given, "fresh", "in place"])]
    dtypes = dict.fromkeys([call.dtype, "float32" if call.dtype.endswith("16") else call.dtype, "float32", "float64"])
    for dtype in dtypes:
        for op in (call.op, *_LIKE.get(call.op, ())):
            for target, result in forms:
                mine = [target, "index"] if op in _LABELLED else ["index" if op == "log_loss" else "none"]
                for form in dict.fromkeys(mine):
                    yield call._replace(op=op, dtype=dtype, target=form, result=result)
