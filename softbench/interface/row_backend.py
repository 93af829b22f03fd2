"""The narrow waist: the one interface that a backend implements.

The front (`softbench.front.backend`) validates every argument, resolves axis, dtype, layout, reduction and
options, and lowers each call to **rows**: a C-contiguous ``(N, K)`` array ``x`` of a dtype the backend
takes, with ``N >= 1`` and ``K >= 1``. A backend implements *row kernels* and nothing else; the few array
primitives that the front needs (`softbench.interface.host_arrays`) have NumPy defaults, which a backend whose
arrays live on a device overrides.

Rules for every row kernel
--------------------------
* ``out`` and ``loss`` are results to fill: write into them and return them, or return arrays of your own of that
  shape (the front then copies where the caller asked for ``out=``, and rounds floats of another width). They hold
  garbage on entry.
* ``out`` may be ``x`` itself (in place). It never overlaps ``x`` otherwise, nor the target.
* ``x``, the target and the weights are read-only, except ``x`` through ``out``.
* A row's result depends on that row alone: not on N, on its neighbours or on the number of threads.
* A row holding a NaN, a ``+inf``, or only ``-inf`` gives a whole row of NaN in softmax, log_softmax, loss
  and gradient; logsumexp gives NaN, ``+inf`` and ``-inf`` respectively. Some ``-inf`` among finite logits
  are classes that are absent: probability ``+0``, log-probability ``-inf``.
* Nothing is printed and no warning leaks.

`docs/adding-a-backend.md` walks through a complete one.
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, ClassVar, Final, Literal, NoReturn

import numpy as np

from softbench.interface import messages
from softbench.interface.availability import Availability, Kind
from softbench.interface.labels import IGNORED, INVALID
from softbench.interface.linear import LinearKernels
from softbench.interface.returned import check_pair
from softbench.interface.targets import IndexTarget, SoftTarget, Target

__all__ = [
    "FUNCTIONS",
    "IGNORED",
    "INVALID",
    "Availability",
    "IndexTarget",
    "Kind",
    "RowBackend",
    "SoftTarget",
    "Target",
]

#: An array of the backend's own library. The front passes on what the backend's primitives returned.
Array = Any

FUNCTIONS: Final = (
    "argmax",
    "logsumexp",
    "softmax",
    "log_softmax",
    "log_loss",
    "loss",
    "gradient",
    "loss_and_gradient",
)
"""The public functions, each a method of a backend."""


class RowBackend(LinearKernels, abc.ABC):
    """Row kernels of one library. Subclass it, name it, implement the four abstract methods.

    Notation: ``m = max_k x_k``; ``d_k = x_k - m``; ``s = sum of exp(d_k)`` over all ``k`` but one argmax;
    ``S = 1 + s``; ``L = log1p(s)``; ``lse = m + L``; ``p_k = exp(d_k) / S``. Equations are those of Lei Zhao, *Softmax
    Regression*.

    Examples
    --------
    >>> import numpy as np
    >>> import softbench as sb
    >>> from softbench.interface import RowBackend
    >>> class Argmax(RowBackend):
    ...     name = "argmax_only"
    ...     provides = ("argmax",)  # the other functions need no kernel then
    ...     def argmax(self, x, out):
    ...         return np.argmax(x, axis=1)
    >>> sb.Backend(Argmax()).argmax([[1.0, 3.0], [5.0, 2.0]])
    array([1, 0])
    """

    name: ClassVar[str]
    """What users select it by; an identifier."""
    kind: ClassVar[Kind] = "cpu"
    requires: ClassVar[tuple[str, ...]] = ()
    """Modules that must be importable."""
    install: ClassVar[str] = ""
    """The pip command that provides them."""
    dtypes: ClassVar[frozenset[str]] = frozenset({"float32", "float64"})
    """Row dtypes the kernels take. The front widens float16 and bfloat16 to float32 unless listed here."""
    wide_soft_targets: ClassVar[bool] = False
    """Whether kernels take soft targets in float32 beside rows in half precision.

    `SoftTarget.q` then has the rows' dtype only where the caller's target has it and nothing is multiplied in; else it
    is float32. Without this it is always rounded to the rows' dtype, which may cost the loss half an ulp.
    """
    accepts_strided: ClassVar[bool] = False
    """Whether kernels also take logits whose classes are not next to each other, without a copy of them.

    ``x`` is then C-contiguous ``(outer, K, inner)``, ``inner > 1``, where the caller named another axis than the last.
    Row ``o inner + j`` is ``x[o, :, j]``, ``N = outer inner``, and an ``out`` for the rows has the shape of ``x``.
    Results are those of the same row among contiguous ones, bit for bit. `log_loss` and calls with a `SoftTarget` get
    ``(N, K)`` all the same.
    """
    native_loss: ClassVar[bool] = False
    """Whether the library has a cross-entropy with weights, smoothing and reductions of its own, to be called as it is.

    Its kernels then get targets with nothing folded in and with the ``reduction`` the caller asked for. A loss is
    ``(N,)`` for "none" and 0-d otherwise, of any float dtype, and a gradient is that of the reduced loss; ``divisor``
    is 1. `total` gets such a 0-d loss, and gives it the dtype that the caller is promised.
    """
    writes_out: ClassVar[Collection[str] | None] = None
    """Functions (by public name) whose results the library itself can write into given memory; None: all.

    ``out=`` works for the others too, by a copy of the result: what a measurement must not charge to the library.
    """
    keeps_ieee: ClassVar[bool] = False
    """Whether kernels see to it themselves that they keep subnormal numbers on a thread that is set to flush them, and
    that NumPy does not warn. If not, as by default, the front does (`softbench.interface.float_mode`), which takes a
    microsecond or two."""
    waits: ClassVar[bool] = False
    """Whether looking at values of an array waits for a device. Calls that are not to check values
    (``validate=False``) then look at no weights either, and kernels get them however large or small they are."""
    cost: ClassVar[Literal["compiled", "interpreted", "simulated"]] = "compiled"
    """How much work the conformance kit may ask for."""
    provides: ClassVar[Collection[str]] = frozenset(FUNCTIONS)
    """The public functions that this backend has, by default all. One that names fewer implements the row kernels of
    those alone (``loss`` and ``gradient`` by kernels of their own or by `loss_and_gradient`); asked for another it
    raises `softbench.NotProvidedError`, and the conformance kit asks for no other."""
    compiles_per_shape: ClassVar[bool] = False
    """Whether each shape is compiled anew, so that the kit is to ask for few of them."""
    deviations: ClassVar[Mapping[str, str]] = {}
    """What it does otherwise than the contract, by row (``"layouts"``) or pattern of case ids (``"out/*"``), and why. A
    declared case that fails counts as a deviation, one that no longer fails as a failure. Of this project only
    backends over other people's libraries declare any."""
    gates: ClassVar[Mapping[str, float | Mapping[str, float]]] = {}
    """Looser bounds than the contract's, by key of `softbench.accuracy.gates.GATES`: one number, or one by dtype."""
    flushes_subnormals: ClassVar[bool] = False
    """Whether results below the normal range come back as 0."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Kernels of functions that the class does not provide need not be written."""
        super().__init_subclass__(**options)
        for name in RowBackend.__abstractmethods__:
            abstract = getattr(RowBackend, name)
            if getattr(cls, name) is abstract or isinstance(getattr(cls, name), _NotProvided):
                setattr(cls, name, abstract if cls._needs(name) else _NotProvided(name))

    @classmethod
    def _needs(cls, kernel: str) -> bool:
        """Whether a function that the class provides comes from this kernel."""
        if kernel in cls.provides:
            return True
        derived = [name for name in ("loss", "gradient") if getattr(cls, name) is getattr(RowBackend, name)]
        return kernel == "loss_and_gradient" and any(name in cls.provides for name in derived)

    @classmethod
    def availability(cls) -> Availability:
        """Whether this backend can run here; a GPU backend overrides it to probe its driver.

        Returns
        -------
        Availability
            Never an error: by default it says which of the modules in `requires` are missing.
        """
        missing = [module for module in cls.requires if find_spec(module) is None]
        if missing:
            return Availability(False, cls.kind, f"{', '.join(missing)} is not installed", cls.install)
        return Availability(True, cls.kind)

    def info(self) -> dict[str, object]:
        """Whatever a reader of a result needs to know about this backend.

        Returns
        -------
        dict
            Versions, device, threads: numbers, strings, and lists and dicts of them.
        """
        return {"device": "cpu"}

    def limit_threads(self, count: int) -> AbstractContextManager[None]:
        """While the context lasts, compute on at most ``count`` threads; by default there are none to limit."""
        return nullcontext()

    def kernels(self, ops: Collection[str], dtypes: Collection[str]) -> Iterator[tuple[str, Callable[[], bool]]]:
        """What first calls would have to compile, for ``softbench warmup``: by default nothing.

        Nothing is compiled by asking.

        Parameters
        ----------
        ops : collection of str
            Names of public functions.
        dtypes : collection of str
            Row dtypes among `dtypes`.

        Yields
        ------
        name : str
            What to call a kernel before people.
        compile : callable
            Compiles it (at once if it is compiled already), and says whether later processes will find it.
        """
        return iter(())

    # -- row kernels: required -------------------------------------------------------------------------

    @abc.abstractmethod
    def logsumexp(self, x: Array, out: Array) -> Array:
        """``lse`` of each row. Zhao eq. (3).

        Parameters
        ----------
        x : array, shape (N, K)
            Rows.
        out : array, shape (N,)
            May take the result; of the rows' dtype.

        Returns
        -------
        array, shape (N,)
            ``out``, or an array of its own.
        """

    @abc.abstractmethod
    def softmax(self, x: Array, out: Array) -> Array:
        """``p`` of each row. Zhao eq. (4), (5).

        Parameters
        ----------
        x : array, shape (N, K)
            Rows.
        out : array, shape (N, K)
            May take the result; of the rows' dtype. May be ``x`` itself.

        Returns
        -------
        array, shape (N, K)
            ``out``, or an array of its own.
        """

    @abc.abstractmethod
    def log_softmax(self, x: Array, out: Array) -> Array:
        """``d_k - L`` of each row, never ``x - lse``, which loses digits. The logarithm of Zhao eq. (4).

        Parameters
        ----------
        x : array, shape (N, K)
            Rows.
        out : array, shape (N, K)
            May take the result; of the rows' dtype. May be ``x`` itself.

        Returns
        -------
        array, shape (N, K)
            ``out``, or an array of its own.
        """

    @abc.abstractmethod
    def loss_and_gradient(self, x: Array, target: Target, divisor: Any, loss: Array, out: Array) -> tuple[Array, Array]:
        """Row losses and their gradient, from one reading of each row. Zhao eq. (9), (10), (11).

        Parameters
        ----------
        x : array, shape (N, K)
            Rows.
        target : IndexTarget or SoftTarget
            A class or a distribution per row.
        divisor : float or array
            What the gradient is divided by *before* its last rounding: 1 for the reductions "none" and "sum", else what
            the backend's own ``divisor`` returned (a number; on a device an array, so that nobody waits for it). It is
            0 where nothing has weight: rows then become NaN, except `IGNORED` ones, which are +0 always.
        loss : array of float64, shape (N,)
            May take the losses, which are float64 whatever the rows' dtype, and not divided.
        out : array, shape (N, K)
            May take the gradient; of the rows' dtype. May be ``x`` itself.

        Returns
        -------
        losses : array of float64, shape (N,)
            ``loss``, or an array of its own.
        gradient : array, shape (N, K)
            ``out``, or an array of its own.
        """

    # -- row kernels: those of NumPy, for arrays in host memory ----------------------------------------

    def argmax(self, x: Array, out: Array) -> Array:
        """Index of the first NaN of each row, else of its first maximum. Zhao eq. (1), (2).

        Parameters
        ----------
        x : array, shape (N, K)
            Rows.
        out : array of int64, shape (N,)
            May take the result.

        Returns
        -------
        array of int64, shape (N,)
            ``out``, or an array of its own.
        """
        return np.argmax(x, axis=1, out=out)

    def log_loss(self, p: Array, target: Target, loss: Array) -> Array:
        """``sum_k q_k (-log p_k)`` of each row of probabilities. Zhao eq. (6)-(8).

        ``p_y == 0`` gives ``+inf``; ``q_k == 0`` contributes 0; ``p_y == 1`` gives ``+0``. No clipping.

        Parameters
        ----------
        p : array, shape (N, K)
            Rows of probabilities.
        target : IndexTarget or SoftTarget
            A class or a distribution per row.
        loss : array of float64, shape (N,)
            May take the losses.

        Returns
        -------
        array of float64, shape (N,)
            ``loss``, or an array of its own.
        """
        q = target.distribution(p.shape[1])
        return target.select(np.where(q == 0, 0, q * (0 - np.log(p.astype(np.longdouble)))).sum(axis=1))

    # -- row kernels: derived, override for speed ------------------------------------------------------

    def loss(self, x: Array, target: Target, loss: Array) -> Array:
        """The first result of `loss_and_gradient`, bit for bit.

        Parameters
        ----------
        x, target, loss
            As there.

        Returns
        -------
        array of float64, shape (N,)
            ``loss``, or an array of its own.
        """
        return check_pair(self.name, self.loss_and_gradient(x, target, 1, loss, self.empty(x.shape, x.dtype)))[0]

    def gradient(self, x: Array, target: Target, divisor: Any, out: Array) -> Array:
        """The second result of `loss_and_gradient`, bit for bit.

        Parameters
        ----------
        x, target, divisor, out
            As there.

        Returns
        -------
        array, shape (N, K)
            ``out``, or an array of its own.
        """
        rows = math.prod(x.shape) // x.shape[1]
        pair = self.loss_and_gradient(x, target, divisor, self.empty((rows,), "float64"), out)
        return check_pair(self.name, pair)[1]


class _NotProvided:
    """In place of a kernel that a backend need not have, because its `RowBackend.provides` leaves the function out."""

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel

    def __get__(self, rows: RowBackend | None, owner: type[RowBackend]) -> Any:
        return self if rows is None else functools.partial(self._refuse, rows)

    def _refuse(self, rows: RowBackend, *arguments: Any) -> NoReturn:
        raise messages.not_provided(rows.name, self.kernel, rows.provides)
