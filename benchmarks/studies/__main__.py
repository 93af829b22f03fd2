"""``python -m benchmarks.studies NAME [options]``: run one study; without a name: list them."""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import Final, NamedTuple


class Study(NamedTuple):
    """Where a study is: a function of a list of arguments that returns an exit status."""

    module: str
    function: str
    question: str


STUDIES: Final = {
    "goals": Study("goals", "goals", "numba against PyTorch, JAX, ONNX Runtime and the memory, goal by goal"),
    "portability": Study("portability", "portability", "numba on this processor and as on narrower ones, beside NumPy"),
    "figures": Study("figures", "figures", "figures of README.md and docs/, written anew from the committed records"),
    "agreement": Study("agreement", "agreement", "whether softbench run, asv and timeit say the same"),
    "ablation": Study("ablation", "ablation", "what each technique of the numba backend is worth"),
    "cycles": Study("kernels", "cycles", "what bounds the numba kernels: instructions counted, beside the time"),
    "per-row": Study("kernels", "per_row", "what a row costs the numba backend on one thread, in the L2 cache"),
    "thresholds": Study("kernels", "thresholds", "both ways around every size where the numba backend changes its way"),
    "exponential": Study("numerics", "exponential", "coefficients of all exponentials, found anew"),
    "worst-errors": Study("numerics", "worst_errors", "inputs on which the numba backend errs most"),
    "overhead": Study("calls", "overhead", "what the public call costs on small arrays, layer by layer"),
    "strided": Study("calls", "strided", "another axis than the last, beside PyTorch"),
    "soft-targets": Study("calls", "soft_targets", "distributions as targets, beside PyTorch"),
    "first-calls": Study("calls", "first_calls", "first calls of the numba backend in a fresh process"),
    "half-precision": Study(
        "half_precision", "half_precision", "numba in float16 and bfloat16, beside PyTorch and float32"
    ),
    "half-precision-elsewhere": Study(
        "half_precision", "half_precision_elsewhere", "numpy and python in float16 and bfloat16, beside their float32"
    ),
    "half-precision-memory": Study("half_precision", "memory", "memory that numba takes beside input and output"),
    "regression-oracle": Study("regression", "oracle", "fused loss and gradient beside two products of matrices"),
    "scaling": Study("scaling", "scaling", "the dask backend: one block, one and two workers, a simulation of more"),
    "gpu-accuracy": Study("gpu", "accuracy", "largest errors of the CuPy kernels, executed on the CPU"),
    "gpu-calls": Study("gpu", "calls", "host time of calls of the CuPy backend, without a card"),
    "gpu-launches": Study("gpu", "launches", "host time of kernel launches from Python, without a card"),
    "gpu-instructions": Study("gpu_instructions", "instructions_table", "instructions per element of the CuPy kernels"),
}


def main(arguments: list[str]) -> int:
    """Run the study that the first argument names."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m benchmarks.studies NAME [options]; NAME --help explains one\n")
        width = max(map(len, STUDIES))
        for name, study in STUDIES.items():
            print(f"  {name:<{width}}  {study.question}")
        return 0
    name, *rest = arguments
    if name not in STUDIES:
        close = difflib.get_close_matches(name, STUDIES, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        print(f"unknown study {name!r}: {hint}known are {', '.join(STUDIES)}", file=sys.stderr)
        return 2
    study = STUDIES[name]
    function = getattr(importlib.import_module(f"benchmarks.studies.{study.module}"), study.function)
    return int(function(rest) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
