"""The logits of the workload ``digits``, made once for all processes of a comparison."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from softbench.measure.remote import Remote, RemoteError
from softbench.measure.workloads import Workload

__all__ = ["TrainedDigits"]


class TrainedDigits:
    """A file with the logits of a trained classifier, in a folder that `close` removes.

    Importing scikit-learn and training take seconds of a core: in each of nine backends' processes at once, half a
    minute.
    """

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._path = ""

    def path(self, workload: Workload) -> str:
        """The file, for a workload that needs it; empty for others, and where training fails: then each trains."""
        if workload.logits != "digits":
            return ""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="softbench-", ignore_cleanup_errors=True)
            path = str(Path(self._folder.name, "digits.npz"))
            with contextlib.suppress(RemoteError), Remote() as trainer:
                trainer.ask("keep_digits", path=path)
                self._path = path
        return self._path

    def close(self) -> None:
        """Remove the file."""
        if self._folder is not None:
            self._folder.cleanup()
        self._folder, self._path = None, ""
