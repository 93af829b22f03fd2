"""Whether a backend can run here, as a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Availability", "Kind"]

Kind = Literal["cpu", "gpu", "simulator", "distributed"]


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend can run here, and if not, why and what would change that.

    Parameters
    ----------
    ok : bool
        Whether it can run here.
    kind : {"cpu", "gpu", "simulator", "distributed"}
        What it runs on.
    reason : str
        Why it cannot run, in one line; or what is special where it can.
    install : str
        The pip command that would change that, or what is needed.

    Examples
    --------
    >>> from softbench.interface import Availability
    >>> Availability(False, "gpu", "no CUDA device").reason
    'no CUDA device'
    """

    ok: bool
    kind: Kind
    reason: str = ""
    install: str = ""
