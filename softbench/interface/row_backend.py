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
from typing import Any, NoReturn

import numpy as np

from softbench.interface import messages
from softbench.interface.availability import Availability, Kind
from softbench.interface.declarations import FUNCTIONS, Declarations
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


class RowBackend(Declarations, LinearKernels, abc.ABC):
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

        Examples
        --------
        >>> import numpy as np
        >>> import softbench as sb
        >>> rows = sb.get_backend("numpy").rows
        >>> rows.logsumexp(np.array([[0.0, 0.0]]), np.empty(1))
        array([0.69314718])
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

        Examples
        --------
        >>> import numpy as np
        >>> import softbench as sb
        >>> rows = sb.get_backend("numpy").rows
        >>> rows.softmax(np.array([[0.0, 0.0]]), np.empty((1, 2)))
        array([[0.5, 0.5]])
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

        Examples
        --------
        >>> import numpy as np
        >>> import softbench as sb
        >>> rows = sb.get_backend("numpy").rows
        >>> rows.log_softmax(np.array([[0.0, 0.0]]), np.empty((1, 2)))
        array([[-0.69314718, -0.69314718]])
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
            the backend's own ``divisor`` returned (a number; on a device an array, so that no call waits for it). It is
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

        Examples
        --------
        >>> import numpy as np
        >>> import softbench as sb
        >>> from softbench.interface import IndexTarget
        >>> rows = sb.get_backend("numpy").rows
        >>> target = IndexTarget(np.array([1]))
        >>> rows.loss_and_gradient(np.array([[0.0, 0.0]]), target, 1, np.empty(1), np.empty((1, 2)))
        (array([0.69314718]), array([[ 0.5, -0.5]]))
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

        Examples
        --------
        >>> import numpy as np
        >>> import softbench as sb
        >>> rows = sb.get_backend("numpy").rows
        >>> rows.argmax(np.array([[1.0, 3.0, 3.0]]), np.empty(1, np.int64))
        array([1])
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

        Examples
        --------
        >>> import numpy as np
        >>> import softbench as sb
        >>> from softbench.interface import IndexTarget
        >>> rows = sb.get_backend("numpy").rows
        >>> rows.log_loss(np.array([[0.5, 0.5]]), IndexTarget(np.array([1])), np.empty(1))
        array([0.69314718])
        """
        q = target.distribution(p.shape[1])
        return target.select(np.where(q == 0, 0, q * (0 - np.log(p.astype(np.longdouble)))).sum(axis=1))

    # -- row kernels: derived, override for speed ------------------------------------------------------

    def loss(self, x: Array, target: Target, loss: Array) -> Array:
        """The first result of `loss_and_gradient`, bit for bit.

        Parameters
        ----------
        x : array, shape (N, K)
            Rows.
        target : IndexTarget or SoftTarget
            A class or a distribution per row.
        loss : array of float64, shape (N,)
            May take the losses.

        Returns
        -------
        array of float64, shape (N,)
            ``loss``, or an array of its own.

        Examples
        --------
        >>> import numpy as np
        >>> import softbench as sb
        >>> from softbench.interface import IndexTarget
        >>> rows = sb.get_backend("numpy").rows
        >>> rows.loss(np.array([[0.0, 0.0]]), IndexTarget(np.array([1])), np.empty(1))
        array([0.69314718])
        """
        return check_pair(self.name, self.loss_and_gradient(x, target, 1, loss, self.empty(x.shape, x.dtype)))[0]

    def gradient(self, x: Array, target: Target, divisor: Any, out: Array) -> Array:
        """The second result of `loss_and_gradient`, bit for bit.

        Parameters
        ----------
        x : array, shape (N, K)
            Rows.
        target : IndexTarget or SoftTarget
            A class or a distribution per row.
        divisor : float or array
            What the gradient is divided by, as there.
        out : array, shape (N, K)
            May take the gradient; of the rows' dtype. May be ``x`` itself.

        Returns
        -------
        array, shape (N, K)
            ``out``, or an array of its own.

        Examples
        --------
        >>> import numpy as np
        >>> import softbench as sb
        >>> from softbench.interface import IndexTarget
        >>> rows = sb.get_backend("numpy").rows
        >>> rows.gradient(np.array([[0.0, 0.0]]), IndexTarget(np.array([1])), 1, np.empty((1, 2)))
        array([[ 0.5, -0.5]])
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
