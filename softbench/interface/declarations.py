"""What a backend says of itself: what it needs and takes, what it has, and where it keeps to less than the contract."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import ClassVar, Final, Literal

from softbench.interface.availability import Availability, Kind

__all__ = ["FUNCTIONS", "Declarations"]

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


class Declarations:
    """The half of `softbench.interface.RowBackend` that computes nothing; all but ``name`` have defaults."""

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
    lazy: ClassVar[bool] = False
    """Whether results are computed only when somebody asks for them: what is timed is then `computed` of a call."""
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

    @classmethod
    def availability(cls) -> Availability:
        """Whether this backend can run here; a GPU backend overrides it to probe its driver.

        Returns
        -------
        Availability
            Never an error: by default it says which of the modules in `requires` are missing.

        Examples
        --------
        >>> import softbench as sb
        >>> sb.get_backend("numpy").rows.availability().ok
        True
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

        Examples
        --------
        >>> import softbench as sb
        >>> sb.get_backend("numpy").rows.info()["device"]
        'cpu'
        """
        return {"device": "cpu"}

    def limit_threads(self, count: int) -> AbstractContextManager[None]:
        """While the context lasts, compute on at most ``count`` threads; by default there are none to limit.

        Parameters
        ----------
        count : int
            The number of threads, at least 1.

        Returns
        -------
        context manager
            Of None. What was in force before is restored at its end.

        Examples
        --------
        >>> import softbench as sb
        >>> with sb.get_backend("numpy").rows.limit_threads(1):
        ...     sb.softmax([0.0, 0.0], backend="numpy")
        array([0.5, 0.5])
        """
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

        Returns
        -------
        iterator of (str, callable)
            For each kernel its name in messages, and what compiles it (at once if it is compiled already) and returns
            whether later processes will find it on disk.

        Examples
        --------
        >>> import softbench as sb
        >>> list(sb.get_backend("numpy").rows.kernels(["softmax"], ["float32"]))
        []
        """
        return iter(())
