"""What the benchmarks share: parameters, and the setup that makes a call or skips with a reason.

Parameters are the same whatever is installed: all reserved names of backends, and fixed names of cases. What cannot
run here raises NotImplementedError in ``setup``, which asv records as skipped and prints.
"""

from __future__ import annotations

import os
import sys

# Compiled code is kept beside the environment it belongs to: each benchmark runs in a process of its own. (Before any
# import that might load Numba.)
os.environ.setdefault("NUMBA_CACHE_DIR", os.path.join(sys.prefix, "numba-cache"))

from softbench.built_in import RESERVED
from softbench.errors import BackendUnavailableError, UnknownBackendError
from softbench.measure import inputs, workloads
from softbench.measure.comparison import skip_reason
from softbench.registry import get_backend

BACKENDS = list(RESERVED)
TIME_CASES = [case.name for case in workloads.select(["asv"])]
METRIC_CASES = [case.name for case in workloads.select(["metrics"])]


def find(name: str):
    """The backend of this name; NotImplementedError with the reason where it cannot be measured."""
    try:
        backend = get_backend(name)
    except UnknownBackendError:
        raise NotImplementedError(f"{name}: a reserved name, without a backend yet") from None
    except BackendUnavailableError as error:
        raise NotImplementedError(str(error)) from None
    if backend.availability().kind == "simulator":
        raise NotImplementedError(f"{name}: a simulator is checked, never timed")
    return backend


def skipped(backend, workload) -> str | None:
    """Why a backend is not timed on a workload, if so."""
    rows = backend.rows
    return skip_reason(rows.cost, frozenset(rows.provides), workload) or inputs.missing_extra(workload)


class Combination:
    """One backend on one case: ``self.call()`` computes, and waits until it is done."""

    param_names = ("backend", "case")

    def setup(self, name, case_name):
        self.backend = find(name)
        self.workload = workloads.by_name(case_name)
        if reason := skipped(self.backend, self.workload):
            raise NotImplementedError(f"{name} on {case_name}: {reason}")
        self.inputs = inputs.make_inputs(self.workload)
        compute, synchronize = inputs.make_call(self.workload, self.backend, self.inputs), self.backend.synchronize

        def on_device():
            compute()
            synchronize()

        self.call = compute if self.backend.availability().kind == "cpu" else on_device
        self.call()  # compilation, and the pages of a result that is allocated once
