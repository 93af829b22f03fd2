"""One call, measured on every backend, for a question that nothing saved answers (`softbench.recommend`)."""

from __future__ import annotations

from softbench import machine
from softbench.measure.plan import Config
from softbench.measure.progress import ProgressReporter
from softbench.measure.run import run
from softbench.results import store
from softbench.results.measurements import Call
from softbench.results.record import Record

__all__ = ["keep", "measure"]

SECONDS = 6.0


def measure(call: Call, shape: tuple[int, ...], axis: int, progress: ProgressReporter | None = None) -> Record:
    """Every backend on this call: checked, timed, saved for this machine.

    Returns
    -------
    Record
        What is known of this machine by now. KeyboardInterrupt if it was interrupted.
    """
    config = Config(
        profile="quick",
        ops=(call.op,),
        shapes=(shape,),
        axis=axis,
        dtypes=(call.dtype,),
        target="soft" if call.target == "soft" else "index",
        seconds=SECONDS,
    )
    record = run(config, progress)
    if not record["complete"]:
        raise KeyboardInterrupt
    keep(record)
    return store.load(record["machine"]["id"], machine.thread_count()) or record


def keep(record: Record) -> str:
    """Save what a run has found for this machine, if it has judged what it timed; the reason if that failed."""
    if not record["config"].get("check"):
        return ""
    threads = record["config"].get("threads") or machine.thread_count()
    try:
        store.save(record, record["machine"]["id"], threads)
    except OSError as error:
        return f"cannot save the measurements for softbench recommend: {error.strerror or error}"
    return ""
