"""Which backend to take for a call that one has in mind: from measurements, saved ones or made now."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from softbench import machine
from softbench.built_in import DISTRIBUTIONS
from softbench.interface.dtypes import formats
from softbench.results import store
from softbench.results.compare import unlike_machines
from softbench.results.measurements import Call, Estimate, choose, estimates
from softbench.results.record import Record, Step, read
from softbench.results.units import duration, percent, ratio, ulps

__all__ = ["Advice", "advise"]


class Advice(NamedTuple):
    """Which backend to take, and how sure that is; ``str()`` of it is for people. See `softbench.recommend`.

    Parameters
    ----------
    backend : str
        The one that takes the least time for all calls, start-up included.
    seconds : float
        Per call.
    interval : tuple of float
        Between these bounds, with 95% where it was measured; where it was interpolated, as far as that has been off.
    measured : str
        The case that is this very call; empty: the time is interpolated between measured shapes.
    tied : list of str
        Others that may be as fast.
    estimates : list of Estimate
        Of all that may be recommended, the fastest first.
    cold : list of Step
        Which is the cheapest in total from which call on, start-up included, with nothing compiled.
    cached : list of Step
        The same where an earlier process has left compiled code.
    call : Call
        What was asked.
    calls : int or None
        How many calls there will be; None: so many that start-up does not count.
    stale : list of str
        What has changed since it was measured, as sentences.
    disturbed : str
        What else went on when it was measured last; empty: nothing that is known.
    now : bool
        Whether it was measured for this very question.
    """

    backend: str
    seconds: float
    interval: tuple[float, float]
    measured: str
    tied: list[str]
    estimates: list[Estimate]
    cold: list[Step]
    cached: list[Step]
    call: Call
    calls: int | None
    stale: list[str]
    disturbed: str
    now: bool

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def advise(
    op: str,
    shape: Sequence[int],
    dtype: str = "float32",
    *,
    axis: int = -1,
    target: str = "index",
    out: bool = False,
    calls: int | None = None,
    max_ulp: float | None = None,
    files: Iterable[str | Path] = (),
    measure: bool = True,
    progress: Any = None,
) -> Advice:
    """See `softbench.recommend`."""
    call = _call(op, shape, dtype, axis, target, out)
    if calls is not None and calls < 1:
        raise ValueError(f"calls is {calls}, expected at least 1")
    if max_ulp is not None and not max_ulp > 0:
        raise ValueError(f"max_ulp is {max_ulp}, expected a positive number")
    named = [Path(file) for file in files]
    versions = machine.versions(DISTRIBUTIONS)
    record = _read(named) if named else store.load(_here(), machine.thread_count())
    stale = store.changed(record["versions"], versions) if record else []
    fits = record is not None and bool(estimates(record, call))
    now = False
    if measure and not named and (stale or not fits):
        record, now, stale = _measure(call, shape, axis, progress), True, []
    if record is None:
        raise LookupError("nothing has been measured on this machine with this number of threads: softbench run")
    choice = choose(record, call, calls, max_ulp)
    if choice is None:
        raise LookupError(_nobody(record, call, max_ulp))
    best = choice.estimate
    return Advice(
        best.backend, best.seconds, (best.low, best.high), best.measured, choice.tied, choice.estimates, choice.cold,
        choice.cached, call, calls, stale, store.disturbed(record), now,
    )  # fmt: skip


def _call(op: str, shape: Sequence[int], dtype: str, axis: int, target: str, out: bool) -> Call:
    """The call, in the terms of measurements. ValueError."""
    from softbench.interface import FUNCTIONS

    for name, value, known in (
        ("op", op, FUNCTIONS),
        ("dtype", dtype, tuple(formats)),
        ("target", target, ("index", "soft")),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")
    lengths = tuple(int(n) for n in shape)
    if not lengths or min(lengths) < 1:
        raise ValueError(f"shape is {lengths}, expected positive lengths")
    if not -len(lengths) <= axis < len(lengths):
        raise ValueError(f"axis is {axis}, which a shape of {len(lengths)} dimensions does not have")
    classes = lengths[axis]
    form = target if op in ("log_loss", "loss", "gradient", "loss_and_gradient") else "none"
    writes = op in ("softmax", "log_softmax", "gradient", "loss_and_gradient")
    last = axis % len(lengths) == len(lengths) - 1
    return Call(op, dtype, math.prod(lengths) // classes, classes, form, "out" if out and writes else "fresh", last)


def _here() -> str:
    return str(machine.fingerprint()["id"])


def _read(paths: Sequence[Path]) -> Record:
    """What the files hold together; of what several have, the last one's."""
    found = read(paths[0])
    for path in paths[1:]:
        more = read(path)
        if unlike := unlike_machines(found, more):
            raise ValueError(f"{path}: {unlike}")
        found = store.merged(found, more)
    return found


def _measure(call: Call, shape: Sequence[int], axis: int, progress: Any) -> Record:
    """Measure this very call, and save it; what measures is loaded by those who ask for it."""
    one_call: Any = importlib.import_module("softbench.measure.one_call")
    return one_call.measure(call, tuple(shape), axis, progress)  # type: ignore[no-any-return]


def _nobody(record: Record, call: Call, max_ulp: float | None) -> str:
    """Why there is no backend to recommend."""
    what = f"{call.op} of {call.rows}x{call.classes} {call.dtype}"
    errors = {estimate.backend: estimate.max_ulp for estimate in estimates(record, call)}
    if max_ulp is not None and errors:
        said = ", ".join(f"{name} errs by {ulps(error)}" for name, error in errors.items())
        return f"no backend is known to err by at most {max_ulp:g} ulp on {what}: {said}"
    return f"nothing that was measured is like {what}, of backends that are right: softbench run measures it"


# -- for people ----------------------------------------------------------------------------------------------------


def _lines(advice: Advice) -> list[str]:
    call, best = advice.call, advice.backend
    what = f"{call.op} of {call.rows:,} rows of {call.classes:,} classes, {call.dtype}"
    many = "many calls" if advice.calls is None else f"{advice.calls:,} call{'s' if advice.calls > 1 else ''}"
    names = " = ".join([best, *advice.tied])
    lines = [
        f"{names}" + (" (a tie)" if advice.tied else ""),
        f"for {what}, {many}",
        f"  {best}: {_time(advice.estimates, best)}",
    ]
    seconds = {estimate.backend: estimate.seconds for estimate in advice.estimates}
    for name in seconds:
        if name != best:
            times = ratio(seconds[name] / seconds[best])
            lines.append(f"  {name}: {_time(advice.estimates, name)}, {times} the time")
    lines.append(f"  start-up counted: {_steps(advice.cold)}")
    if advice.cached != advice.cold:
        lines.append(f"  where it is compiled already: {_steps(advice.cached)}")
    lines += [f"  stale: {reason}" for reason in advice.stale]
    if advice.disturbed:
        lines.append(f"  disturbed while it was measured, so do not trust small differences: {advice.disturbed}")
    return lines


def _time(found: Sequence[Estimate], name: str) -> str:
    estimate = next(estimate for estimate in found if estimate.backend == name)
    time = f"{duration(estimate.seconds)} per call"
    if estimate.measured:
        return f"{time} ({duration(estimate.low)} to {duration(estimate.high)}, measured), {ulps(estimate.max_ulp)} ulp"
    off = percent(estimate.high / estimate.seconds - 1.0)
    return f"{time} (interpolated, may be off by {off}), {ulps(estimate.max_ulp)} ulp"


def _steps(steps: Sequence[Step]) -> str:
    first, *later = steps
    said = [first["backend"] + (" at first" if later else " from the first call on")]
    said += [f"{step['backend']} from call {step['from_call']:,} on" for step in later]
    return ", ".join(said)
