"""Where runs are saved."""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from softbench.results.record import Record

__all__ = ["results_folder", "save"]


def results_folder(folder: Path) -> tuple[Path | None, str]:
    """The folder, made and known to be writable before a minute of measuring; or what is wrong with it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder, ""
    except OSError as error:
        return None, f"cannot write into {folder}: {error.strerror or error}"


def save(record: Record, folder: Path, *, plot: bool) -> tuple[list[Path], str]:
    """Write JSON and picture; the paths written, and what went wrong."""
    from softbench.files import write_new, write_whole
    from softbench.results.record import dumps

    saved: list[Path] = []
    try:
        path = folder / datetime.datetime.now().strftime(f"{record.get('command', 'run')}-%Y%m%d-%H%M%S.json")
        saved.append(write_new(path, dumps(record).encode()))
        if plot:
            from softbench.results.figures import curves, overview

            picture = saved[0].with_suffix(".png")
            write_whole(picture, (curves if record.get("command") == "regression" else overview)(record))
            saved.append(picture)
    except ImportError as error:
        return saved, f'no picture: {error} (pip install "softbench[bench]")'
    except ValueError as error:
        return saved, f"no picture: {error}"
    except OSError as error:
        return saved, f"cannot write into {folder}: {error.strerror or error}"
    return saved, ""
