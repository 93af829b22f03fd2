"""The shim that executes CUDA source on the CPU, and the thread sanitizer on what it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import cuda_on_cpu

from softbench_backends.cupy.source import source

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="no C++ compiler to run CUDA source on the CPU")

BROKEN = """
__global__ void divergent(int* out) { if (threadIdx.x != 3) __syncthreads(); out[threadIdx.x] = 1; __syncthreads(); }
int main() {
    int out[64] = {};
    int* p = out;
    void* args[] = {&p};
    return cuda_on_cpu::launch(&KERNEL, {{1, 1, 1}, {64, 1, 1}, 0}, args);
}
"""


def executable(tmp_path: Path, text: str, *flags: str) -> Path:
    return cuda_on_cpu.build(f'#include "{cuda_on_cpu.SHIM}"\n{text}', *flags, output="program")


def test_shim_reports_a_barrier_that_not_all_reach(tmp_path: Path) -> None:
    program = executable(tmp_path, BROKEN, "-DKERNEL=divergent")
    assert subprocess.run([program], check=False).returncode == 1


def sanitized(tmp_path: Path, text: str, *flags: str) -> subprocess.CompletedProcess[str]:
    try:
        program = executable(tmp_path, text, *cuda_on_cpu.SANITIZED, *flags)
    except RuntimeError as error:
        pytest.skip(f"cannot build with -fsanitize=thread: {str(error)[-200:]}")
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=300)
    if "FATAL: ThreadSanitizer" in done.stderr:
        pytest.skip(f"ThreadSanitizer cannot run here: {done.stderr[:200]}")
    return done


RACES = """
{kernels}
int main() {{
    const i64 n = 3;
    int failed = 0;
    for (i64 k : {{7LL, 700LL, 5000LL}}) {{
        std::vector<float> x(n * k), q(n * k, 0.25f);
        std::vector<double> loss(n), weight(k, 0.5), chosen(n);
        std::vector<i64> labels = {{0, k - 1, -1}};
        std::vector<StoredPart> parts(n * 32);
        for (i64 i = 0; i < n * k; ++i) x[i] = (float)std::sin(i * 0.7) * 5;
        const float* xp = x.data(); float* out = x.data(); void* rows = loss.data();
        const i64* lp = labels.data(); const double* none = nullptr; const double* wp = weight.data();
        const float* qp = q.data(); const double eps = 0.1, divisor = 3; const i64 length = 4096;
        const int lanes = k < 16 ? 4 : 64;
        const i64 pieces = (k + length - 1) / length;
        Call<float> call = {{{{xp, out, rows, n, k}}, {{lp, none, wp, eps, qp, none, divisor}}, {{k, lanes, 0}},
                            {{parts.data(), chosen.data(), 0, pieces}}}};
        Call<float> half = call, cut = call;
        half.sharing.length = (k + 7) / 8 * 4;
        cut.sharing.length = length;
        void* whole_row[] = {{&call}};
        void* half_row[] = {{&half}};
        void* segment[] = {{&cut}};
        using cuda_on_cpu::launch;
        const unsigned r = (unsigned)n;
        if (k < 1000) {{
            const unsigned block = k < 16 ? 32u : 64u;
            failed |= launch(&resident<float, SMOOTH, 1, 16>, {{{{r, 1, 1}}, {{block, 1, 1}}, 0}}, whole_row);
            failed |= launch(&resident<float, SOFT, 1, 16>, {{{{r, 1, 1}}, {{block, 1, 1}}, 0}}, whole_row);
        }}
        const size_t shared = STAGED_SLOTS + (k + 3) / 4 * 16;
        failed |= launch(&staged<float, SMOOTH>, {{{{r, 1, 1}}, {{64, 1, 1}}, shared}}, whole_row);
        failed |= launch(&staged<float, INDEX>, {{{{r, 1, 1}}, {{64, 1, 1}}, shared}}, whole_row);
        failed |= launch(&clustered<float, SMOOTH, 2>, {{{{2 * r, 1, 1}}, {{64, 1, 1}}, shared, 2}}, half_row);
        failed |= launch(&clustered<float, INDEX, 2>, {{{{2 * r, 1, 1}}, {{64, 1, 1}}, shared, 2}}, half_row);
        failed |= launch(&segment_sums<float, SMOOTH, 1>, {{{{(unsigned)pieces, r, 1}}, {{64, 1, 1}}, 0}}, segment);
        failed |= launch(&segment_write<float, SMOOTH, 1>, {{{{(unsigned)pieces, r, 1}}, {{64, 1, 1}}, 0}}, segment);
    }}
    return failed;
}}
"""


@pytest.mark.gpu_static
def test_kernels_have_no_race_that_the_thread_sanitizer_sees(tmp_path: Path) -> None:
    done = sanitized(tmp_path, RACES.format(kernels=source()))
    assert done.returncode == 0, done.stderr[:4000]


BARRIERS = {
    "of a block": "__syncthreads();  // the slots may still be read from an earlier reduction",
    "of a cluster": "        cluster_arrive();\n        cluster_wait();\n        v = *of_block",
    "before a block of a cluster ends": "if constexpr (BLOCKS > 1) cluster_arrive();",
    "before a row that warp 0 finished": "        __syncthreads();\n        result = shared;",
}


@pytest.mark.parametrize(
    "left_out",
    [
        pytest.param(name, marks=pytest.mark.gpu_static if name == "of a block" else pytest.mark.deep)
        for name in BARRIERS
    ],
)
def test_thread_sanitizer_sees_a_barrier_left_out(tmp_path: Path, left_out: str) -> None:
    barrier = BARRIERS[left_out]
    assert source().count(barrier) == 1
    without = source().replace(barrier, barrier.splitlines()[-1] if "\n" in barrier else "")
    done = sanitized(tmp_path, RACES.format(kernels=without))
    assert "data race" in done.stderr


def conformance_sanitized(left_out: str = "") -> subprocess.CompletedProcess[str]:
    """`sanitized_cupy.py` in a process with the thread sanitizer."""
    asked = [cuda_on_cpu.compiler() or "", "-print-file-name=libtsan.so"]
    library = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    if not Path(library).is_file():
        pytest.skip("the C++ compiler has no shared thread sanitizer")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "sanitized_cupy.py"), left_out],
        env={
            **os.environ,
            "LD_PRELOAD": str(Path(library).resolve()),
            "TSAN_OPTIONS": "exitcode=66",
            "CUDA_ON_CPU_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    if "FATAL: ThreadSanitizer" in done.stderr:
        pytest.skip(f"ThreadSanitizer cannot run here: {done.stderr[:200]}")
    return done


@pytest.mark.deep
def test_conformance_cases_have_no_race_that_the_thread_sanitizer_sees() -> None:
    done = conformance_sanitized()
    assert done.returncode == 0, done.stderr[:4000]
    assert int(done.stdout.split()[0]) > 30, done.stdout


@pytest.mark.deep
def test_thread_sanitizer_sees_a_barrier_left_out_of_conformance_cases() -> None:
    done = conformance_sanitized("        __syncthreads();\n        if (threadIdx.x < 32) v = over_slots")
    assert done.returncode == 66, done.stdout + done.stderr[:4000]
    assert "data race" in done.stderr
