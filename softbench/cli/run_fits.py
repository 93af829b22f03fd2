"""``softbench run --suite regression``: fits of softmax regression, curves of every solver."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from typing import Final

from softbench.cli.arguments import DEFAULT_OUT, UsageError, complain, names
from softbench.cli.progress import make_console, show_progress
from softbench.cli.saving import results_folder, save

__all__ = ["run_fits"]

_OTHERS: Final = {
    "backends": None, "candidate": None, "candidate_op": None, "op": None, "shape": None, "axis": -1, "target": "index",
    "dtype": None, "max_ulp": None, "no_check": False, "resume": None,
}  # fmt: skip
"""Options of the other suite, and what they are where nobody has given them."""
_SPELLED: Final = {"backends": "backend", "candidate_op": "as"}


def run_fits(parsed: argparse.Namespace) -> int:
    """Measure, save, print; returns the exit status."""
    from softbench import machine
    from softbench.measure.fits import run as fits
    from softbench.results.record import dumps

    for option, default in _OTHERS.items():
        if getattr(parsed, option) != default:
            spelled = _SPELLED.get(option, option).replace("_", "-")
            raise UsageError(f"--{spelled} is no option of --suite regression, which compares solvers on data sets")
    if parsed.threads and parsed.threads > machine.usable_cores():
        raise UsageError(f"--threads {parsed.threads}: this process may use {machine.usable_cores()} cores")
    if not importlib.util.find_spec("sklearn"):
        raise UsageError('--suite regression needs scikit-learn: pip install "softbench[model]"')
    config = fits.FitConfig(
        profile=parsed.profile,
        cases=tuple(dict.fromkeys(names(parsed.cases))) if parsed.cases is not None else (),
        solvers=tuple(dict.fromkeys(names(parsed.solver))) if parsed.solver is not None else (),
        seconds=parsed.seconds,
        threads=parsed.threads,
    )
    try:
        config.data(), config.contenders()
    except ValueError as error:
        raise UsageError(error) from None
    folder, trouble = results_folder(parsed.out or DEFAULT_OUT)
    if trouble:
        complain(f"{trouble}; the results will only be printed", 1)
    with show_progress() as progress:
        record = fits.run(config, progress)
    saved, more_trouble = save(record, folder, plot=not parsed.no_plot) if folder else ([], "")
    if parsed.json:
        print(dumps(record), end="")
    else:
        from softbench.results import fit_tables

        fit_tables.show(record, make_console())
        for path in saved:
            print(f"saved: {path}")
    if sys.stdout is not None:
        sys.stdout.flush()
    if more_trouble:
        complain(more_trouble, 1)
    if not record["complete"]:
        return 130
    return 1 if trouble or more_trouble else 0
