"""The backend under judgement.

All cases talk to a backend through `BackendUnderTest`: arrays go in by the backend's own ``asarray`` and come back by
its ``to_numpy``, so the same cases judge host and device backends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from softbench.conformance.declarations import COSTS
from softbench.conformance.failures import Failure, LazyText, NotApplicable, call_text
from softbench.conformance.fresh import Nursery, in_a_fork
from softbench.conformance.profiles import Profile
from softbench.errors import NotProvidedError
from softbench.front.backend import Backend
from softbench.functions import FunctionBackend
from softbench.interface import FUNCTIONS, RowBackend
from softbench.interface.dtypes import result_dtype
from softbench.loading import Source, build

__all__ = ["BackendUnderTest", "Worst", "error_rows", "under_test"]

Array = np.ndarray[Any, Any]

_MAX_K: Final = {"compiled": 1 << 31, "interpreted": 300, "simulated": 100}
_MAX_ELEMENTS: Final = {"compiled": 1 << 31, "interpreted": 3000, "simulated": 300}
_MAX_ROWS: Final = {"simulated": 3}  # a simulator starts a thread of Python for every thread of every row
_ARRAYS: Final = ("sample_weight", "out")  # options that live where the logits live


@dataclass(slots=True)
class Worst:
    """The largest error seen at one gate (`softbench.accuracy.gates.GATES`) and dtype, in the gate's unit."""

    max: float
    gate: float
    """The bound it is judged by: the contract's, or a declared one."""
    contract: float
    """The contract's own bound."""
    input: str
    """The call it was seen at."""
    case: str = ""


class BackendUnderTest:
    """A backend being judged.

    Attributes
    ----------
    be
        The backend: a `softbench.front.backend.Backend`, or anything with its methods.
    cost
        ``compiled``, ``interpreted`` or ``simulated``: how much work cases ask for.
    few_shapes
        Whether each shape costs a compilation (attribute ``compiles_per_shape``), so that cases are to ask for few.
    deviations
        What the backend declares to do otherwise: pattern of case ids, or row of the contract, to reason (attribute
        ``deviations`` of its class).
    gates
        Looser bounds that it declares, by key of `softbench.accuracy.gates.GATES` (attribute ``gates``).
    provides
        The public functions it has (attribute ``provides``).
    may_lack_forms
        Whether it may raise `NotProvidedError` for forms of the calls it provides: one function of somebody's
        (`softbench.functions`), which has the options that it has.
    flushes_subnormals
        Whether it declares to return 0 for results below the normal range (attribute ``flushes_subnormals``).
    worst
        Largest error by (gate, dtype), filled by `judge`.
    worst_since
        Those of them that are new since somebody emptied it.
    stops_at_first
        Whether a case of many calls is to end with the first that is wrong, for one who looks for that.
    record
        Told of every call before it is made, while somebody wants to know.
    nursery
        Where calls are made that need a process in which there was none (`afresh`); None: in any fork.
    patience
        Seconds after which a thread or process that a case has started counts as hanging.
    """

    def __init__(self, be: Any, *, name: str | None = None, profile: str = "standard") -> None:
        rows = getattr(be, "rows", be)
        self.be = be
        self.rows = rows
        self.name: str = name or getattr(be, "name", None) or type(be).__name__
        self.kind: str = be.availability().kind if hasattr(be, "availability") else "cpu"
        self.host = self.kind == "cpu"
        self.cost: str = declared if (declared := getattr(rows, "cost", "")) in COSTS else COSTS[0]
        self.provides: Collection[str] = getattr(rows, "provides", FUNCTIONS)
        self.may_lack_forms = isinstance(rows, FunctionBackend)
        self.profile = profile
        self.few_shapes = profile != "deep" and getattr(rows, "compiles_per_shape", False) is True
        self.deviations: dict[str, str] = _mapping(rows, "deviations")
        self.gates: dict[str, Any] = _mapping(rows, "gates")
        self.flushes_subnormals = getattr(rows, "flushes_subnormals", False) is True
        self.worst: dict[tuple[str, str], Worst] = {}
        self.worst_since: dict[tuple[str, str], Worst] = {}
        self.patience = 60.0
        self.stops_at_first = False
        self.record: Callable[[str, Any, Any, dict[str, Any]], None] | None = None
        self.nursery: Nursery | None = None
        self.case = ""

    # -- sizes -----------------------------------------------------------------------------------------

    @property
    def max_k(self) -> int:
        """Most classes that a case may ask for, by cost."""
        return _MAX_K[self.cost]

    @property
    def max_elements(self) -> int:
        """Most elements that a case may ask for at once, by cost."""
        return _MAX_ELEMENTS[self.cost]

    def ks(self, *ks: int) -> list[int]:
        """The numbers of classes among ``ks`` that this backend's cost allows; two of them where each costs much."""
        found = [k for k in ks if k <= self.max_k]
        many = self.cost != "simulated" and not self.few_shapes
        return found if many or len(found) < 3 else [found[len(found) // 2], found[-1]]

    def rows_of(self, k: int, rows: int) -> int:
        """At most ``rows`` rows of ``k`` classes, fewer for slow backends; at least 2."""
        return max(2, min(rows, _MAX_ROWS.get(self.cost, rows), _MAX_ELEMENTS[self.cost] // max(k, 1)))

    # -- functions -------------------------------------------------------------------------------------

    def may_lack(self, requirement: str) -> bool:
        """Whether a `NotProvidedError` in a case of this requirement is a function that the backend need not have."""
        whole = set(FUNCTIONS) <= set(self.provides)
        return self.may_lack_forms or not whole or requirement.startswith("linear-")

    def provided(self, *functions: str) -> list[str]:
        """Those of the functions that the backend has; `NotApplicable` if there are none."""
        found = [function for function in functions if function in self.provides]
        if not found:
            raise NotApplicable(f"does not provide {', '.join(functions)}")
        return found

    # -- calls -----------------------------------------------------------------------------------------

    def call(self, op: str, logits: Any, target: Any = None, /, **options: Any) -> Any:
        """Call a public function; ndarrays go through ``asarray``, results come back as ndarrays."""
        self.provided(op)
        if self.record is not None:
            self.record(op, logits, target, options)
        arguments = [self.put(logits)] if target is None else [self.put(logits), self.put(target)]
        options = {k: self.put(v) if k in _ARRAYS and v is not None else v for k, v in options.items()}
        refusal = None
        try:
            result = getattr(self.be, op)(*arguments, **options)
        except NotProvidedError as error:
            if self.may_lack_forms:
                raise
            refusal = error
        if refusal is not None:  # raised here, without the context by which a function that is lacking is known
            raise Failure(f"{op} is in `provides`, and raises {refusal!r}")
        parts = result if isinstance(result, tuple) else (result,)
        for part in parts:
            if part is None or isinstance(part, (list, tuple, str)):  # NumPy would make an array of it
                raise Failure(f"{op} returned {type(part).__name__}, expected an array or a scalar of its dtype")
        return tuple(self.get(part) for part in parts) if isinstance(result, tuple) else self.get(result)

    def put(self, array: Any) -> Any:
        """An ndarray as an array of the backend; anything else as it is."""
        if not isinstance(array, np.ndarray) or self.host:
            return array
        return self.be.asarray(array)

    def get(self, array: Any) -> Array:
        """A result as an ndarray (0-d for scalars)."""
        to_numpy: Callable[[Any], Array] = getattr(self.be, "to_numpy", np.asarray)
        return to_numpy(array)

    def afresh(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(backend, *arguments)`` in a process in which the backend has not been called.

        In a process that judges this one backend (`softbench.conformance.apart`) that is exactly so. Elsewhere, as in a
        test suite, it is a fork with a new object of the backend's class. Raises as
        `softbench.conformance.fresh.in_a_fork` does.
        """
        if self.nursery is not None:
            return self.nursery.ask(function, *arguments, patience=self.patience)
        return in_a_fork(self._call_anew, function, arguments, patience=self.patience)

    def _call_anew(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        made = self.be
        if isinstance(self.rows, RowBackend) and type(self.be) is Backend:
            with contextlib.suppress(TypeError):  # not without arguments: then it is the fork of what there is
                made = type(self.rows)()
        return function(under_test(made, self.profile), *arguments)  # type: ignore[arg-type]

    # -- accuracy --------------------------------------------------------------------------------------

    def judge(
        self,
        op: str,
        result: Array,
        logits: Array,
        target: Any = None,
        /,
        *,
        made: str = "",
        said: str | LazyText = "",
        **options: Any,
    ) -> None:
        """Hold a result against the oracle and the gates of ``op``; remember the largest errors.

        ``made`` says how the logits were made, for a message in which they are too many to print; ``said`` is the whole
        call in words, if it was another than these arguments make.
        """
        from softbench.accuracy import judging

        asked = {key: value for key, value in options.items() if key not in ("out", "validate")}
        declared, flushes = self.gates, self.flushes_subnormals
        verdict = judging.judge(op, result, logits, target, declared=declared, flushes_subnormals=flushes, **asked)
        said = said or LazyText(lambda: call_text(op, logits, target, options, made))
        dtype = result_dtype(np.asarray(logits).dtype.name) or "float64"
        for gate, error in verdict.largest.items():
            self._remember(gate, dtype, error, said)
        if not verdict.ok:
            raise Failure(f"{said}: {verdict.message}")

    def loosened(self, gap: float, op: str, dtype: str) -> float:
        """A bound that goes with the accuracy of a function, as much looser as the backend declares."""
        from softbench.accuracy.gates import looseness

        return gap * looseness(op, dtype, self.gates)

    def _remember(self, gate: str, dtype: str, error: float, said: str | LazyText) -> None:
        """Keep the largest error of each gate and dtype."""
        from softbench.accuracy.gates import GATES

        seen = self.worst.get((gate, dtype))
        if seen is None or error > seen.max:
            own = GATES[gate].bounds[dtype]
            declared = self.gates.get(gate, own)
            bound = declared.get(dtype, own) if isinstance(declared, Mapping) else declared
            found = Worst(error, float(bound), own, str(said), self.case)
            self.worst[gate, dtype] = self.worst_since[gate, dtype] = found

    def errors(self) -> list[dict[str, Any]]:
        """`worst` as plain rows for a report."""
        return error_rows(self.worst)


def error_rows(worst: Mapping[tuple[str, str], Worst]) -> list[dict[str, Any]]:
    """The largest errors as plain rows for a report."""
    return [{"function": op, "dtype": dtype, **asdict(error)} for (op, dtype), error in sorted(worst.items())]


def _mapping(rows: Any, name: str) -> dict[str, Any]:
    """A declared mapping, or an empty one for what is none (which `softbench.conformance.declarations` tells)."""
    declared = getattr(rows, name, None)
    return dict(declared) if isinstance(declared, Mapping) else {}


def under_test(backend: Any, profile: Profile = "standard") -> BackendUnderTest:
    """The `BackendUnderTest` for whatever `softbench.conformance.run` takes, or a `softbench.loading.Source`."""
    if isinstance(backend, str):
        backend = Source.of(backend)
    if isinstance(backend, Source):
        return BackendUnderTest(backend.load(), name=backend.spec if ":" in backend.spec else None, profile=profile)
    return BackendUnderTest(build(backend, repr(backend)), profile=profile)
