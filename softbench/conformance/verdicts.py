"""What a run of the kit finds: a verdict per case, and the report of all."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import softbench

__all__ = ["Report", "Result", "Status"]

Status = Literal["passed", "failed", "skipped", "deviation", "unjudged"]


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on one case.

    Parameters
    ----------
    id : str
        Of the case: ``requirement/name``.
    status : {"passed", "failed", "skipped", "deviation", "unjudged"}
        "deviation": it failed as the backend declares.
    message : str
        Why it failed, was skipped, or what deviation is declared.
    seconds : float
        What it took.

    Examples
    --------
    >>> from softbench.conformance import Result
    >>> Result("argmax-ties/argmax-float32", "passed").message
    ''
    """

    id: str
    status: Status
    message: str = ""
    seconds: float = 0.0


@dataclass
class Report:
    """What a run of the kit found. `to_dict` makes it JSON.

    Parameters
    ----------
    backend, kind, cost, profile : str
        What was judged, and by how much of the kit.
    info : dict
        What the backend says of itself.
    results : list of Result
        One per case.
    errors : list of dict
        Largest error in ulp by function and dtype: ``function, dtype, max, gate, input, case``.
    seconds : float
        What the run took.
    interrupted : bool
        Whether it ended early.
    stopped : str
        Why cases were left without a verdict, if any were.
    printed : str
        The beginning of what the backend has printed while it was judged in a process of its own.
    softbench : str
        The version of softbench.

    Examples
    --------
    >>> from softbench.conformance import run
    >>> report = run("numpy", "quick", select=["argmax-ties"])
    >>> report.ok, report.to_dict()["counts"]["failed"]
    (True, 0)
    """

    backend: str
    kind: str
    cost: str
    profile: str
    info: dict[str, object]
    results: list[Result] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False
    stopped: str = ""
    printed: str = ""
    softbench: str = softbench.__version__

    def of(self, status: Status) -> list[Result]:
        """The results of one status.

        Parameters
        ----------
        status : {"passed", "failed", "skipped", "deviation", "unjudged"}
            As of `Result`.

        Returns
        -------
        list of Result
            In the order in which they were judged.

        Examples
        --------
        >>> from softbench.conformance import run
        >>> report = run("numpy", "quick", select=["argmax-ties"])
        >>> report.of("failed")
        []
        """
        return [result for result in self.results if result.status == status]

    @property
    def ok(self) -> bool:
        """Nothing failed, nothing was left without a verdict, and something was judged: no verdict is no success.

        Examples
        --------
        >>> from softbench.conformance import run
        >>> report = run("numpy", "quick", select=["argmax-ties"])
        >>> report.ok
        True
        """
        judged = self.of("passed") or self.of("deviation")
        return bool(judged) and not self.interrupted and not self.stopped and not self.of("failed")

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON has it.

        Returns
        -------
        dict
            Plain dicts, lists, strings and numbers, with a summary first.

        Examples
        --------
        >>> from softbench.conformance import run
        >>> report = run("numpy", "quick", select=["argmax-ties"])
        >>> report.to_dict()["counts"]["failed"]
        0
        """
        counts = {status: len(self.of(status)) for status in get_args(Status)}
        return {"backend": self.backend, "ok": self.ok, "counts": counts, **asdict(self)}
