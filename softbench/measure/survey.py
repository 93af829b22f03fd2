"""Which backends can run here, asked of each in a process of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from softbench.measure.remote import Remote, RemoteError
from softbench.registry import list_backends
from softbench.results.record import BackendRecord

__all__ = ["survey"]


def survey(names: Iterable[str], *, info: bool = False) -> dict[str, BackendRecord]:
    """The record of every backend: whether it can run here, on what, and if not why.

    Parameters
    ----------
    names
        Of backends, or ``module:attribute``.
    info
        Whether those that can are also made and asked about their versions, device and threads.

    Returns
    -------
    dict of str to BackendRecord
        In the order of the names. One that raises, exits, crashes or hangs when it is asked cannot run here: that is
        the reason it has, and whose code it was.
    """
    summaries = list_backends()
    found: dict[str, BackendRecord] = {}
    with contextlib.ExitStack() as stack:
        asked = {name: stack.enter_context(Remote(name)) for name in names}
        for name, remote in asked.items():  # all at once: most of it is importing libraries
            remote.send("availability", name=name)
        for name, remote in asked.items():
            found[name] = _answered(summaries.get(name, name), remote)
            if info and found[name]["ok"]:
                _described(name, remote, found[name])
    return found


def _answered(summary: str, remote: Remote) -> BackendRecord:
    try:
        state = remote.receive()
    except RemoteError as error:
        state = {"ok": False, "kind": "cpu", "reason": str(error), "install": ""}
    return {
        "summary": summary,
        "ok": state["ok"],
        "kind": state["kind"],
        "reason": state["reason"],
        "install": state["install"],
    }


def _described(name: str, remote: Remote, entry: BackendRecord) -> None:
    try:
        remote.ask("open", name=name)
        entry |= remote.ask("describe")
    except RemoteError as error:
        entry["ok"], entry["reason"] = False, str(error)
