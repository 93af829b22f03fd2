"""The CuPy backend's CUDA source executed on the CPU under the thread sanitizer; run by test_cuda_on_cpu.py in a
process into which the sanitizer is loaded first. An argument is a barrier, whose first line is left out, which it must
then miss.

The threads of a block are threads of the operating system here, which makes launches slow: this is a sample of every
row of the contract, and one call of everything in every kernel for rows. Races are told by the sanitizer, in the status
that TSAN_OPTIONS names; it sees nothing of NumPy and of the interpreter.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import cuda_on_cpu
from cuda_on_cpu import CupyOnCpu

from softbench.conformance import contract, run
from softbench.front.backend import Backend
from softbench.interface.dtypes import numpy_dtype
from softbench_backends.cupy import plan
from softbench_backends.cupy.source import source

# Every kernel for rows, and what is looked at a second time: sums of less than the smallest term, logsumexp near 0.
ROWS = (
    (CupyOnCpu(), "float32", (7, 300, 700, 20000)),
    (CupyOnCpu(), "bfloat16", (700,)),
    (CupyOnCpu(plan.BLOCK_BYTES), "float32", (20000,)),
)


def sample() -> list[str]:
    """Ids of a case of each row of the contract, of few classes and in one dtype."""
    by_row: dict[str, list[contract.Case]] = {}
    for case in contract.cases("quick"):
        if "float32" in case.name and "host" not in case.needs:
            by_row.setdefault(case.requirement, []).append(case)
    return [case.id for row in by_row.values() for case in sorted(row, key=lambda case: case.max_k)[:1]]


def call_everything(be: Backend, dtype: str, k: int) -> None:
    x = np.linspace(-3, 3, 2 * k).reshape(2, k).astype(numpy_dtype(dtype))
    x[1] = -200.0
    x[1, 0] = 0.0
    labels = np.array([k - 1, 0])
    weights = {"class_weight": np.ones(k), "sample_weight": np.full(2, 0.5)}
    q = np.full((2, k), 1 / k)
    for op in ("argmax", "softmax", "log_softmax", "logsumexp"):
        getattr(be, op)(x)
    for target, options in ((labels, {}), (labels, {"label_smoothing": 0.1, **weights}), (q, {})):
        memory = x.copy()
        be.loss_and_gradient(memory, target, out=memory, **options)


def main(left_out: str) -> None:
    if left_out:
        _, _, what_stays = left_out.partition("\n")
        text = source().replace(left_out, what_stays)
        assert text != source()
        cuda_on_cpu.kernels = lambda: text  # type: ignore[attr-defined]
        call_everything(Backend(CupyOnCpu()), "float32", 700)
        return
    for rows, dtype, ks in ROWS:
        for k in ks:
            call_everything(Backend(rows), dtype, k)
    report = run(ROWS[0][0], "quick", select=sample())
    failed = [f"{result.id}: {result.message}" for result in report.of("failed")]
    assert not failed, "\n".join(failed)
    print(f"{len(report.of('passed'))} cases")


if __name__ == "__main__":
    main(*sys.argv[1:] or [""])
