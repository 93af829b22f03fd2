"""What a case is: a row of the contract, a name, and a function that raises when a backend breaks the row.

Most rows are data: an `Example` is a call and what it returns, for every dtype it lists. What cannot be said as
one call is a function over a `softbench.conformance.backend_under_test.BackendUnderTest`, made a `Case` by `check`.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.failures import Failure, NotApplicable, NotRefused, call_text, mismatch
from softbench.conformance.profiles import Profile
from softbench.errors import NotProvidedError
from softbench.interface.dtypes import numpy_dtype, result_dtype

__all__ = [
    "FLOATS",
    "NONE",
    "ORACLE",
    "SUM",
    "WIDE",
    "Case",
    "Example",
    "Raises",
    "Requirement",
    "check",
    "is_installed",
    "labels_of",
]

FLOATS: Final = ("float16", "bfloat16", "float32", "float64")
WIDE: Final = ("float32", "float64")
NONE: Final = {"reduction": "none"}
SUM: Final = {"reduction": "sum"}

_FUSED: Final = {"loss": 0, "gradient": 1}  # which of loss_and_gradient's results


def labels_of(*classes: int, dtype: Any = np.int64) -> Any:
    """Labels of an `Example`."""
    return np.array(classes, dtype)


class _Oracle:
    def __repr__(self) -> str:
        return "ORACLE"


ORACLE: Final = _Oracle()
"""Expected: whatever the oracle says, within the gates of the contract."""


@dataclass(frozen=True, slots=True)
class Raises:
    """Expected: this exception, whose message has each of ``mentions`` as a word of its own."""

    error: type[Exception]
    mentions: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return self.error.__name__ + (f" naming {', '.join(self.mentions)}" if self.mentions else "")


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the verdict.

    Parameters
    ----------
    requirement : str
        Id of the `Requirement` it belongs to.
    name : str
        Unique in the requirement.
    check : callable
        Takes the backend under test. Raises `Failure` (or anything else) when it is wrong, `NotApplicable` when it
        cannot be asked.
    needs : frozenset of str
        ``host`` (arrays in host memory), or modules that must be importable: ``pandas``, ``ml_dtypes``.
    profile : {"quick", "standard", "deep"}
        The smallest profile that runs it.
    max_k : int
        Number of classes it takes, where a smaller number would make no sense.

    Examples
    --------
    >>> from softbench.conformance import Case
    >>> Case("argmax-ties", "two-rows", lambda backend: None).id
    'argmax-ties/two-rows'
    """

    requirement: str
    name: str
    check: Callable[[BackendUnderTest], None]
    needs: frozenset[str] = frozenset()
    profile: Profile = "quick"
    max_k: int = 0

    @property
    def id(self) -> str:
        """Unique name, ``requirement/name``."""
        return f"{self.requirement}/{self.name}"


@dataclass(frozen=True, slots=True)
class Example:
    """One call of the public interface and what comes of it, for each of ``dtypes``."""

    op: str
    logits: Any
    """Nested lists, or an array of the shape and values (converted to each dtype), or a function of the dtype."""
    target: Any = None
    expect: Any = ORACLE
    """A literal of the result (NaN matches NaN), `ORACLE`, or `Raises`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    dtypes: tuple[str, ...] = FLOATS
    name: str = ""
    signed: bool = False
    """Whether the sign of a zero matters."""

    def cases(self, row: str) -> list[Case]:
        """One case per dtype."""
        stem = f"{self.op}-{self.name}" if self.name else self.op
        return [
            Case(row, f"{stem}-{dtype}", lambda s, d=dtype: self.run(s, d), _needs(dtype))  # type: ignore[misc]
            for dtype in self.dtypes
        ]

    def text(self) -> str:
        """The call as one would write it."""
        return call_text(self.op, self.logits, self.target, self.options)

    def run(self, backend: BackendUnderTest, dtype: str) -> None:
        """Judge one call; a loss or gradient is asked of ``loss_and_gradient`` too."""
        logits = self.logits(dtype) if callable(self.logits) else np.asarray(self.logits)
        logits = logits.astype(numpy_dtype(dtype)) if logits.dtype.name != dtype else logits
        # Copies: a backend that overwrites its input must not spoil the cases that come after.
        target = None if self.target is None else np.array(self.target)
        options: dict[str, Any] = {
            key: np.array(v) if isinstance(v, np.ndarray) else v for key, v in self.options.items()
        }
        logits = np.array(logits)
        calls = {self.op: None} | ({"loss_and_gradient": _FUSED[self.op]} if self.op in _FUSED else {})
        for op in backend.provided(*calls):
            part = calls[op]
            said = call_text(op, logits, self.target, self.options)
            if isinstance(self.expect, Raises):
                must_raise(backend, self.expect, op, logits, target, options)
                continue
            result = backend.call(op, logits, target, **options)
            if part is not None:
                result = result[part]
            form = _result_dtype(self.op, dtype, self.options.get("reduction", "mean"))
            if result.dtype.name != form:
                raise Failure(f"{said} has dtype {result.dtype.name}, expected {form}")
            if self.expect is ORACLE:
                backend.judge(self.op, result, logits, target, **options)
            else:
                expected = np.asarray(self.expect).astype(numpy_dtype(form))
                mismatch(result, expected, said, signed=self.signed)


def _result_dtype(op: str, dtype: str, reduction: str) -> str:
    if op == "argmax":
        return "int64"
    if op in ("loss", "log_loss") and reduction != "none":
        return "float64"
    return result_dtype(dtype) or dtype


@functools.cache
def is_installed(module: str) -> bool:
    """Whether a module that some cases need is here; found out once."""
    return importlib.util.find_spec(module) is not None


def _needs(*dtypes: str) -> frozenset[str]:
    return frozenset({"ml_dtypes"} if "bfloat16" in dtypes else ())


def must_raise(
    backend: BackendUnderTest, expected: Raises, op: str, logits: Any, target: Any, options: Mapping[str, Any]
) -> None:
    """The call must raise ``expected``; nothing else, and not return."""
    said = call_text(op, logits, target, options)
    try:
        result = backend.call(op, logits, target, **options)
    except expected.error as error:
        message = str(error)
        for word in expected.mentions:
            if not re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w])", message):
                raise NotRefused(
                    f"{said} raises {expected.error.__name__}({message!r}), which does not name {word}"
                ) from None
        return
    except (NotApplicable, NotProvidedError):
        raise
    except Exception as error:
        raise NotRefused(f"{said} raises {error!r}, expected {expected!r}") from error
    raise NotRefused(f"{said} returns {result!r}, expected {expected!r}")


@dataclass(frozen=True)
class Requirement:
    """A row of the contract: what case it is, what must come of it, and the cases that decide.

    Parameters
    ----------
    id : str
        Its name, by which runs select it and backends declare deviations.
    case, result : str
        When it applies, and what must come of it then, as a reader of the table sees them.
    examples : tuple of Example
        Cases that are one call each.
    checks : tuple of Case
        The others.

    Examples
    --------
    >>> from softbench.conformance import Requirement
    >>> Requirement("argmax-ties", "argmax of equal logits", "the first").cases()
    []
    """

    id: str
    case: str
    result: str
    examples: tuple[Example, ...] = ()
    checks: tuple[Case, ...] = ()

    def cases(self) -> list[Case]:
        """All of them, examples first."""
        return [case for example in self.examples for case in example.cases(self.id)] + list(self.checks)


def check(
    row: str,
    function: Callable[..., None],
    *,
    name: str = "",
    needs: Iterable[str] = (),
    profile: Profile = "quick",
    max_k: int = 0,
    **parameters: Iterable[Any],
) -> tuple[Case, ...]:
    """Cases from ``function(backend, **choice)``, one for every combination of the lists in ``parameters``."""
    stem = name or function.__name__.strip("_").replace("_", "-")
    found = []
    for values in itertools.product(*parameters.values()):
        choice = dict(zip(parameters, values, strict=True))
        label = "-".join([stem, *(_label(value) for value in values)])
        wanted = frozenset(needs) | _needs(*(value for value in values if isinstance(value, str)))

        def run(backend: BackendUnderTest, choice: dict[str, Any] = choice) -> None:
            function(backend, **choice)

        found.append(Case(row, label, run, wanted, profile, max_k))
    return tuple(found)


def _label(value: Any) -> str:
    return str(getattr(value, "name", value)).replace(" ", "-")
