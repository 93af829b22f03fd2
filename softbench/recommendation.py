"""The public function that says which backend to take. `softbench.advice` does the work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from softbench.advice import Advice

__all__ = ["recommend"]


def recommend(
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
    """Which backend to take for calls like this one on this machine.

    Taken from what ``softbench run`` has saved for this machine; between measured shapes it is interpolated, and the
    answer says how far off that may be. Where nothing that was saved fits, it is measured now, which takes a minute or
    so, and saved.

    Parameters
    ----------
    op : str
        A public function: ``"softmax"``, ``"loss_and_gradient"``, ...
    shape : sequence of int
        Of the logits.
    dtype : str, default "float32"
        Of the logits: ``"float16"``, ``"bfloat16"``, ``"float32"`` or ``"float64"``.
    axis : int, default -1
        Of the classes.
    target : {"index", "soft"}, default "index"
        ``"index"`` or ``"soft"``, for losses and gradients.
    out : bool, default False
        Whether an array result goes into memory that is there.
    calls : int, optional
        How many calls there will be in one process, with nothing compiled before; None: so many that start-up does not
        count.
    max_ulp : float, optional
        The largest error that may be, in ulp; None: what the contract allows.
    files : iterable of path, optional
        Files that ``softbench run`` has written, of one machine, to be taken instead of what is saved for this one.
    measure : bool, default True
        Whether to measure where nothing fits.
    progress : object, optional
        Told of the steps of a measurement (`softbench.measure.progress.ProgressReporter`).

    Returns
    -------
    Advice
        A named tuple; ``str()`` of it is for people. ``backend`` is a name for `get_backend`; ``seconds`` per call
        lie within ``interval``; ``measured`` names the case that is this very call, or is empty where the time is
        interpolated; ``tied`` may be as fast; ``estimates`` are those of all backends; ``cold`` and ``cached`` say
        from which call on which one is the cheapest, start-up included; ``stale`` and ``disturbed`` say what speaks
        against it.

    Raises
    ------
    ValueError
        An op, shape, dtype or axis that is none; files that are no results, or of unlike machines.
    LookupError
        Nothing that was measured fits and ``measure`` is False, or no backend may be recommended; the message says why.
    OSError
        A file cannot be read.

    Examples
    --------
    >>> import softbench as sb
    >>> advice = sb.recommend("softmax", (4096, 1000), calls=1000)  # doctest: +SKIP
    >>> sb.softmax(x, backend=advice.backend)  # doctest: +SKIP
    """
    from softbench.advice import advise  # with all that reads results: for those who ask

    return advise(
        op, shape, dtype, axis=axis, target=target, out=out, calls=calls, max_ulp=max_ulp, files=files,
        measure=measure, progress=progress,
    )  # fmt: skip
