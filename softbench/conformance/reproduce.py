"""From a failed case to three lines of Python: the smallest call found that is still wrong, in the same way.

A case is run again with its calls recorded. From the last to the first, each is tried alone: held against the oracle,
repeated, made of copies, and with its last row alone. What is wrong in one of these ways is made smaller (fewer rows,
classes and options, plainer numbers) as long as it stays wrong. Where no call is wrong by itself (threads, processes,
what goes before), the case itself is the reproducer.
"""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from softbench.conformance import contract
from softbench.conformance.backend_under_test import BackendUnderTest, under_test
from softbench.conformance.failures import Failure, NotRefused, mismatch
from softbench.conformance.runner import decide
from softbench.conformance.smaller_calls import (
    Call,
    copy_of,
    in_c_order,
    is_rows,
    layout_of,
    rows_of,
    smaller_calls,
    waves,
)
from softbench.loading import Source

__all__ = ["case_text", "main", "reproduce"]

Array = np.ndarray[Any, Any]

_SECONDS: Final = 10.0
"""Time for making a call smaller."""
_KEPT: Final = 12
"""Calls of a case that are tried, from the last."""
_LITERAL: Final = 24
"""Numbers that an array may have to be written out."""
_LONG: Final = 2000
"""Characters that the lines may have."""
_BYTES: Final = 1 << 24
"""Size of arguments up to which a call is tried."""


# -- ways of being wrong -------------------------------------------------------------------------------
# Each raises Failure if a call is wrong in its way. The text is the third line of the reproducer.


def _by_oracle(backend: BackendUnderTest, call: Call) -> None:
    result = call.run(backend)
    options = {k: v for k, v in call.options.items() if k not in ("out", "validate", "keepdims")}
    if call.op == "argmax":
        wide = np.moveaxis(np.asarray(call.logits).astype(np.float64), call.options.get("axis", -1), -1)
        nan = np.isnan(wide)
        mismatch(result, np.where(nan.any(axis=-1), nan.argmax(axis=-1), wide.argmax(axis=-1)), "argmax")
    elif call.op == "loss_and_gradient":
        for op, part in zip(("loss", "gradient"), result, strict=True):
            backend.judge(op, part, call.logits, call.target, said=op, **options)
    else:
        backend.judge(call.op, result, call.logits, call.target, said=call.op, **options)


def _parts(result: Any) -> tuple[Array, ...]:
    return tuple(np.asarray(part) for part in (result if isinstance(result, tuple) else (result,)))


def _same(a: Any, b: Any, said: str) -> None:
    for x, y in zip(_parts(a), _parts(b), strict=True):
        mismatch(x, y, said)


def _repeated(backend: BackendUnderTest, call: Call) -> None:
    first = [np.array(part) for part in _parts(call.run(backend))]
    _same(call.run(backend), tuple(first), "the second of two equal calls")


def _of_copies(backend: BackendUnderTest, call: Call) -> None:
    _same(call.run(backend), in_c_order(call).run(backend), "the same of C-contiguous copies")


def _last_row_alone(backend: BackendUnderTest, call: Call) -> None:
    if not is_rows(call) or len(call.logits) < 2 or call.options.get("reduction", "none") != "none":
        raise _NotAsked
    alone = rows_of(call, slice(len(call.logits) - 1, None))
    whole = tuple(part[-1:] for part in _parts(call.run(backend)))
    _same(alone.run(backend), whole, "the last row alone")


_WAYS: Final[dict[str, tuple[Callable[[BackendUnderTest, Call], None], str]]] = {
    "oracle": (_by_oracle, "print({call})"),
    "repeated": (_repeated, "print({call} - {call})"),
    "copies": (_of_copies, "print({call} - {copies})"),
    "alone": (_last_row_alone, "print({call}[-1:] - {alone})"),
}


_AT_A_GLANCE: Final = 8
"""Numbers among which one that is wrong is found without its place."""


class _NotAsked(Exception):
    """A way that does not concern a call."""


def _wrong(backend: BackendUnderTest, call: Call, way: str) -> str:
    """What is wrong with a call, in this way; empty if nothing is."""
    try:
        _WAYS[way][0](backend, call)
    except Failure as failure:
        return str(failure)
    except _NotAsked:
        return ""
    except Exception as error:  # the backend's
        return f"raises {type(error).__name__}: {error}" if way == "oracle" and _is_valid(call) else ""
    return ""


def _is_valid(call: Call) -> bool:
    """Whether the numpy backend takes the call, as every backend must."""
    from softbench.registry import get_backend

    try:
        call.run(BackendUnderTest(get_backend("numpy")))
    except Exception:
        return False
    return True


def _shrunk(backend: BackendUnderTest, call: Call, way: str, end: float) -> Call:
    """The smallest call found that is wrong in the same way."""
    again = True
    while again and time.monotonic() < end:
        again = False
        for smaller in smaller_calls(call):
            if _size(smaller) < _size(call) and _wrong(backend, smaller, way):
                call, again = smaller, True
                break
            if time.monotonic() > end:
                break
    return call


def _size(call: Call) -> tuple[int, int, int]:
    arrays = [v for v in (call.logits, call.target, *call.options.values()) if isinstance(v, np.ndarray)]
    return len(call.options), sum(a.size for a in arrays), len(_text(call, _literal(call.logits)))


# -- writing -------------------------------------------------------------------------------------------


def _literal(value: Any) -> str:
    """An argument as Python."""
    if not isinstance(value, np.ndarray):
        return repr(value)
    name = value.dtype.name
    form = f"ml_dtypes.{name}" if name == "bfloat16" else repr(name if value.dtype.isnative else value.dtype.str)
    first = value.reshape(-1)[0].item() if value.size else 0.0
    if value.size > 4 and (value == value.reshape(-1)[0]).all() and not np.signbit(first):
        text = f"np.full({value.shape}, {first!r}, {form})"
    elif value.size > 4 and value.dtype.kind != "i" and (value == waves(value.shape)).all():
        text = f"(np.arange({value.size}).reshape({value.shape}) % 7).astype({form})"
    else:
        numbers = re.sub(r"\b(nan|inf)\b", r"np.\1", repr(value.tolist()))
        text = f"np.array({numbers}, {form})"
    layout = layout_of(value)
    return text if layout == "C" else f"LAYOUTS[{layout!r}]({text})"


def _text(call: Call, logits: str = "x") -> str:
    """The call as Python."""
    parts = [logits] + ([] if call.target is None else [_literal(call.target)])
    parts += [f"{name}={_literal(value)}" for name, value in call.options.items()]
    return f"be.{call.op}({', '.join(parts)})"


def _written(source: Source, call: Call, way: str, message: str) -> str:
    alone = rows_of(call, slice(len(call.logits) - 1, None)) if way == "alone" else call
    third = _WAYS[way][1].format(
        call=_text(call), copies=_text(in_c_order(call), "x.copy()"), alone=_text(alone, "x[-1:]")
    )
    logits = _literal(call.logits)
    used = logits + third
    imports = "import numpy as np" + (", ml_dtypes" if "ml_dtypes" in used else "")
    layouts = "; from softbench.conformance.layouts import LAYOUTS" if "LAYOUTS" in used else ""
    first = re.split(r"[;\n]", message)[0]
    place = re.search(rf"\b{call.op}(\[[\d, ]+\]) ", first)
    in_rows = call.logits.ndim == 2 and call.options.get("axis", -1) == -1
    if place and in_rows and way == "oracle" and call.logits.size > _AT_A_GLANCE:
        third = f"print({_text(call)}{place[1]})"
    return (
        f"{imports}; from softbench.loading import Source{layouts}\n"
        f"be, x = {_source_text(source)}.load(), {logits}\n"
        f"{third}  # {first}"
    )


def _source_text(source: Source) -> str:
    optional = {name: value for name, value in asdict(source).items() if name != "spec" and value}
    words = [repr(source.spec), *(f"{name}={value!r}" for name, value in optional.items())]
    return f"Source({', '.join(words)})"


def case_text(source: Source, case_id: str, profile: str, message: str) -> str:
    """The lines that have a whole case run: where no call is wrong by itself."""
    first, _, _ = message.partition("\n")
    return (
        "from softbench.conformance.apart import judge_apart; from softbench.loading import Source\n"
        f"report = judge_apart({_source_text(source)}, {profile!r}, select=[{case_id!r}])\n"
        f"print(report.of('failed')[0].message)  # {first}"
    )


# -- all of it -----------------------------------------------------------------------------------------


def reproduce(source: Source, case_id: str, profile: str) -> str:
    """Three lines of Python that show what is wrong, or why there are none.

    Parameters
    ----------
    source
        The backend.
    case_id
        Id of a case.
    profile
        The profile it is run in.
    """
    case = next(case for case in contract.all_cases() if case.id == case_id)
    backend = under_test(source, profile)  # type: ignore[arg-type]
    calls: deque[Call] = deque(maxlen=_KEPT)
    backend.stops_at_first = True
    backend.record = lambda *call: calls.append(_recorded(*call)) if _weight(call) < _BYTES else None
    ways = tuple(_WAYS)
    try:
        decide(backend, case)
    except NotRefused as failure:
        message, ways = str(failure), ()
    except Exception as error:
        message = str(error)
    else:
        return ""
    backend.record = None
    end = time.monotonic() + _SECONDS
    for call in list(calls)[::-1]:
        for way in ways:
            if time.monotonic() < end and _wrong(backend, call, way):
                small = _shrunk(backend, call, way, end)
                shown = _wrong(under_test(source, profile), small, way)  # type: ignore[arg-type]
                written = _written(source, small, way, shown)
                if shown and len(written) < _LONG:  # else it takes what has gone before, or more than a glance
                    return written
    if not ways and calls and len(_text(calls[-1], _literal(calls[-1].logits))) < 1000:
        return _written(source, calls[-1], "oracle", message)
    return case_text(source, case_id, profile, message)


def _recorded(op: str, logits: Any, target: Any, options: dict[str, Any]) -> Call:
    return Call(op, copy_of(logits), copy_of(target), {k: copy_of(v) for k, v in options.items() if k != "out"})


def _weight(call: tuple[Any, ...]) -> int:
    _, logits, target, options = call
    return sum(v.nbytes for v in (logits, target, *options.values()) if isinstance(v, np.ndarray))


def main(source: str, case_id: str, profile: str, answer: str) -> None:
    """Write the three lines into the file ``answer``: what the backend prints must not be among them."""
    lines = reproduce(Source.from_json(source), case_id, profile)
    Path(answer).write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
