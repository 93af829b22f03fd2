"""The front: everything that is the same for every backend, written once.

What a user holds after ``get_backend(name)`` is a `Backend`: the public functions over one `RowBackend`. A call goes
through the modules beside this one, in this order:

* `fast_path`: the commonest calls, straight to the kernel;
* `logits`: accepted and checked, their axis, dtype and layout; `options`: the others that are no arrays;
* `targets`: labels, distributions, weights, smoothing, as kernels get them; `wide_rows`: weights beyond their range;
* `out`: the memory to write into; from here on nothing is refused, and until here nothing is written;
* the kernel;
* `returned`: its result checked, and given the form the caller expects.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from softbench.front.fast_path import fast_functions, ready_plan, takes_fast_path
from softbench.front.linear import LinearFunctions
from softbench.front.logits import Formats, Plan, kernel_rows, plan_logits
from softbench.front.options import Reduction, check_reduction
from softbench.front.out import accept_out, refuse_overlap
from softbench.front.returned import checked, destination, empty_result, per_row, restore_layout
from softbench.front.targets import LoweredTarget, TargetOptions, lower_target
from softbench.front.wide_rows import Exact
from softbench.interface import FUNCTIONS, Array, Availability, RowBackend, SoftTarget, check_pair, messages
from softbench.interface.float_mode import ieee_arithmetic

__all__ = ["Backend"]


class Backend(LinearFunctions):
    """One backend under the public interface; made by `softbench.get_backend`.

    Its methods are the public functions of `softbench` without their parameter ``backend``.

    Parameters
    ----------
    rows : RowBackend
        The row kernels.

    Attributes
    ----------
    rows : softbench.interface.RowBackend
        The same.
    name : str
        What users select the backend by.

    Examples
    --------
    >>> import softbench as sb
    >>> be = sb.get_backend("numpy")
    >>> be
    <softbench backend 'numpy'>
    >>> be.softmax([0.0, 0.0])
    array([0.5, 0.5])
    """

    def __init__(self, rows: RowBackend) -> None:
        self.rows = rows
        self.name = rows.name
        self._formats = Formats(rows)
        self._takes_plain = takes_fast_path(type(rows))
        if self._takes_plain:
            whole = {
                name: getattr(self, name) for name in FUNCTIONS if getattr(type(self), name) is vars(Backend)[name]
            }
            fast = fast_functions(rows, whole, self._formats.halves)
            vars(self).update({name: types.MethodType(function, self) for name, function in fast.items()})
        for function in FUNCTIONS:
            if function not in rows.provides:  # in place of the method, so that the others need not ask
                setattr(self, function, functools.partial(_refuse, rows, function))

    def __repr__(self) -> str:
        return f"<softbench backend {self.name!r}>"

    def info(self) -> dict[str, object]:
        """Versions, device and threads of this backend, for the record beside a result.

        Returns
        -------
        dict
            ``name`` and ``kind``, and what the backend adds: usually ``device``, ``threads``, versions by distribution,
            and under ``flush_to_zero`` what becomes of a thread's flush-to-zero mode.

        Examples
        --------
        >>> import softbench as sb
        >>> sb.get_backend("numpy").info()["kind"]
        'cpu'
        """
        return {"name": self.name, "kind": self.availability().kind, **self.rows.info()}

    def availability(self) -> Availability:
        """Whether the backend can run here (it could when it was made), and if not, why.

        Returns
        -------
        Availability
            As of `available_backends`.

        Examples
        --------
        >>> import softbench as sb
        >>> sb.get_backend("numpy").availability().ok
        True
        """
        return type(self.rows).availability()

    def asarray(self, x: Any) -> Array:
        """An array that this backend computes on.

        Parameters
        ----------
        x : array_like
            Anything `numpy.asarray` takes, or an array of any device.

        Returns
        -------
        array
            Over the memory of ``x`` where that is possible; otherwise copied, also from or to a device.

        Examples
        --------
        >>> import softbench as sb
        >>> sb.get_backend("numpy").asarray([1.0, 2.0])
        array([1., 2.])
        """
        return self.rows.asarray(x)

    def to_numpy(self, x: Any) -> np.ndarray[Any, Any]:
        """A result of this backend as a NumPy array in host memory.

        Parameters
        ----------
        x : array
            What a method of this backend returned.

        Returns
        -------
        numpy.ndarray
            Over the memory of ``x`` where that is host memory; otherwise a copy, after waiting for the device.

        Examples
        --------
        >>> import softbench as sb
        >>> be = sb.get_backend("numpy")
        >>> be.to_numpy(be.softmax([0.0, 0.0]))
        array([0.5, 0.5])
        """
        return self.rows.to_numpy(x)

    def synchronize(self) -> None:
        """Wait until everything asked of this backend so far is done (returns at once on a CPU).

        Examples
        --------
        >>> import softbench as sb
        >>> sb.get_backend("numpy").synchronize()
        """
        self.rows.synchronize()

    # -- functions of logits alone ---------------------------------------------------------------------

    def argmax(self, logits: Any, *, axis: int = -1) -> Any:
        """See `softbench.argmax`."""
        rows = self.rows
        with ieee_arithmetic():
            plan = self._lower(logits, axis)
            if plan.k == 0:
                raise ValueError(
                    f"logits has no classes along axis {axis} (shape {plan.x.shape}): argmax of nothing is undefined"
                )
            if plan.n == 0:
                out = rows.full((0,), 0, "int64")
            else:
                out = rows.empty((plan.n,), "int64")
                out = checked(rows, "argmax", rows.argmax(kernel_rows(rows, plan), out), out, (plan.n,), "int64")
            return rows.wrap(out.reshape(plan.outer), logits)

    def logsumexp(self, logits: Any, *, axis: int = -1, keepdims: bool = False) -> Any:
        """See `softbench.logsumexp`."""
        rows = self.rows
        with ieee_arithmetic():
            plan = self._lower(logits, axis)
            if plan.empty:
                values = rows.full((plan.n,), -math.inf, plan.compute)
            else:
                restored: Callable[[Array], Array] | None = None
                if plan.shifts:
                    x, restored = rows.integer_rows(plan.x, plan.axis, plan.given)
                else:
                    x = kernel_rows(rows, plan)
                out = rows.empty((plan.n,), plan.compute)
                values = checked(rows, "logsumexp", rows.logsumexp(x, out), out, (plan.n,), plan.compute)
                values = values if restored is None else restored(values)
            shape = plan.x.shape
            kept = shape[: plan.axis] + (1,) + shape[plan.axis + 1 :] if keepdims else plan.outer
            return per_row(rows, plan, values, kept)

    def softmax(self, logits: Any, *, axis: int = -1, out: Any = None) -> Any:
        """See `softbench.softmax`."""
        return self._map("softmax", self.rows.softmax, logits, axis, out)

    def log_softmax(self, logits: Any, *, axis: int = -1, out: Any = None) -> Any:
        """See `softbench.log_softmax`."""
        return self._map("log_softmax", self.rows.log_softmax, logits, axis, out)

    # -- functions of logits and a target --------------------------------------------------------------

    def log_loss(
        self,
        probs: Any,
        target: Any,
        *,
        axis: int = -1,
        class_weight: Any = None,
        sample_weight: Any = None,
        ignore_index: int | None = None,
        reduction: Reduction = "mean",
        validate: bool = True,
    ) -> Any:
        """See `softbench.log_loss`."""
        options = TargetOptions(class_weight, sample_weight, ignore_index, 0.0, reduction, validate)
        return self._with_target("log_loss", probs, target, axis, options)[0]

    def loss(
        self,
        logits: Any,
        target: Any,
        *,
        axis: int = -1,
        class_weight: Any = None,
        sample_weight: Any = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        validate: bool = True,
    ) -> Any:
        """See `softbench.loss`."""
        options = TargetOptions(class_weight, sample_weight, ignore_index, label_smoothing, reduction, validate)
        return self._with_target("loss", logits, target, axis, options)[0]

    def gradient(
        self,
        logits: Any,
        target: Any,
        *,
        axis: int = -1,
        class_weight: Any = None,
        sample_weight: Any = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        validate: bool = True,
        out: Any = None,
    ) -> Any:
        """See `softbench.gradient`."""
        options = TargetOptions(class_weight, sample_weight, ignore_index, label_smoothing, reduction, validate)
        return self._with_target("gradient", logits, target, axis, options, out)[1]

    def loss_and_gradient(
        self,
        logits: Any,
        target: Any,
        *,
        axis: int = -1,
        class_weight: Any = None,
        sample_weight: Any = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        validate: bool = True,
        out: Any = None,
    ) -> tuple[Any, Any]:
        """See `softbench.loss_and_gradient`."""
        options = TargetOptions(class_weight, sample_weight, ignore_index, label_smoothing, reduction, validate)
        return self._with_target("loss_and_gradient", logits, target, axis, options, out)

    # -- the way of all other calls --------------------------------------------------------------------

    def _lower(self, logits: Any, axis: int, probabilities: bool = False) -> Plan:
        """The plan of a call."""
        plan = ready_plan(logits, axis, probabilities, self._formats.halves) if self._takes_plain else None
        return plan or plan_logits(self.rows, self._formats, logits, axis, probabilities)

    def _map(self, method: str, kernel: Callable[[Array, Array], Array], logits: Any, axis: int, out: Any) -> Any:
        """A function from logits to an array of their shape."""
        rows = self.rows
        with ieee_arithmetic():
            plan = self._lower(logits, axis)
            place = self._accept_out(plan, out)
            if plan.empty:
                return empty_result(rows, plan, out)
            x = kernel_rows(rows, plan)
            to = destination(rows, plan, x, place, out)
            result = checked(rows, method, kernel(x, to.buffer), to.buffer, x.shape, plan.compute)
            return restore_layout(rows, plan, result, to)

    def _accept_out(self, plan: Plan, out: Any, inputs: tuple[tuple[str, Array], ...] = ()) -> Array | None:
        """``out`` checked, also against everything that is read."""
        if out is None:
            return None
        place = accept_out(self.rows, out, "out", plan.x.shape, plan.result)
        refuse_overlap(self.rows, place, "out", (("logits", plan.x), *inputs), "logits")
        return place

    def _with_target(
        self, method: str, logits: Any, target: Any, axis: int, options: TargetOptions, out: Any = None
    ) -> tuple[Any, Any]:
        """A function of logits (or probabilities) and a target: its loss and its gradient, None for what it has not."""
        check_reduction(options.reduction)
        with ieee_arithmetic():
            plan = self._lower(logits, axis, method == "log_loss")
            lowered = lower_target(self.rows, plan, target, options)
            if plan.strided and (isinstance(lowered.target, SoftTarget) or lowered.wide is not None):
                plan = plan._replace(strided=False)
            if method == "log_loss" and options.validate:
                self.rows.check_range(plan.x, "probs", 0.0, 1.0)
            place = self._accept_out(plan, out, lowered.inputs)
            if plan.empty:
                losses = self.rows.full((plan.n,), 0.0, "float64")
                gradient = empty_result(self.rows, plan, out) if "gradient" in method else None
                return self._reduced(plan, losses, options.reduction, lowered.divisor), gradient
            return self._evaluated(method, plan, lowered, options.reduction, place, out)

    def _evaluated(
        self, method: str, plan: Plan, lowered: LoweredTarget, reduction: str, place: Array | None, out: Any
    ) -> tuple[Any, Any]:
        """`_with_target`, with all arguments checked and something to compute."""
        rows, target = self.rows, lowered.target
        x = kernel_rows(rows, plan)
        exact = None
        if lowered.wide is not None:  # before the kernel writes into the logits
            wide = rows.read_rows(x, lowered.wide.which).astype(np.float64)
            exact = lowered.wide.evaluate(wide, "gradient" in method, method == "log_loss")
        due = (plan.n,) if target.reduction == "none" else ()
        losses: Any = None
        gradient: Any = None
        if method in ("loss", "log_loss"):
            losses = self._losses(plan)
            result = rows.loss(x, target, losses) if method == "loss" else rows.log_loss(x, target, losses)
            losses = checked(rows, method, result, losses, due, "float64")
        else:
            to = destination(rows, plan, x, place, out)
            if method == "gradient":
                gradient = rows.gradient(x, target, lowered.kernel_divisor, to.buffer)
            else:
                losses = self._losses(plan)
                pair = rows.loss_and_gradient(x, target, lowered.kernel_divisor, losses, to.buffer)
                check_pair(self.name, pair)
                losses = checked(rows, f"{method} (losses)", pair[0], losses, due, "float64")
                gradient, method = pair[1], f"{method} (gradient)"
            gradient = checked(rows, method, gradient, to.buffer, x.shape, plan.compute)
            if lowered.wide is not None and exact is not None and exact.gradient is not None:
                rows.write_rows(gradient, lowered.wide.which, exact.gradient)
            gradient = restore_layout(rows, plan, gradient, to)
        if losses is None:
            return None, gradient
        if exact is not None:
            return self._reduced_exactly(plan, losses, reduction, lowered, exact), gradient
        return self._reduced(plan, losses, reduction, lowered.divisor), gradient

    def _losses(self, plan: Plan) -> Array:
        """Memory for the losses of all rows."""
        return self.rows.empty((plan.n,), "float64")

    def _reduced(self, plan: Plan, losses: Array, reduction: str, divisor: Any) -> Any:
        """Row losses as the caller asked for them."""
        if reduction == "none":
            return per_row(self.rows, plan, losses, plan.outer)
        return self.rows.wrap(self.rows.total(losses, divisor), plan.given)

    def _reduced_exactly(self, plan: Plan, losses: Array, reduction: str, lowered: LoweredTarget, exact: Exact) -> Any:
        """`_reduced` with wide rows among the others; the sum in extended precision, as they may be out of range."""
        rows, over, here = self.rows, 1 if lowered.divisor is None else lowered.divisor, self.rows.host_copy(losses)
        assert lowered.wide is not None
        assert here is not None
        if not isinstance(over, (int, float, np.longdouble)):  # on a device: a sum, and what that rounds away
            over = np.sum(rows.host_copy(over), dtype=np.longdouble)  # type: ignore[arg-type]  # it is an array
        wide = here.astype(np.longdouble) / (np.longdouble(over) or np.longdouble(np.nan))
        wide[lowered.wide.which] = exact.losses
        if reduction == "none":
            return per_row(rows, plan, rows.device_copy(wide.astype(np.float64)), plan.outer)
        return rows.wrap(rows.device_copy(wide.sum().astype(np.float64)), plan.given)


def _refuse(rows: RowBackend, function: str, *arguments: Any, **options: Any) -> NoReturn:
    """Any call of a public function that the backend does not provide."""
    raise messages.not_provided(rows.name, function, rows.provides)
