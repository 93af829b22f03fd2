"""Other processors than this one: narrower x86-64 vectors by name, and AArch64 as far as compiling goes."""

from __future__ import annotations

import json
import os
import pickle
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.processes

numba = pytest.importorskip("numba", reason="numba is not installed")

FOLDER = Path(__file__).parent
x86_64 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names x86-64 processors")

PROCESSORS = ("haswell", "x86-64")
"""256-bit vectors with fused multiply-add (AVX2), and what every x86-64 has: 128 bits, no fused multiply-add."""


def _processor(name: str, cache: Path) -> dict[str, str]:
    """The environment in which Numba compiles for a processor; its code in a cache of its own."""
    return {**os.environ, "NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(cache)}


def _started(command: list[str], name: str, folder: Path) -> subprocess.Popen[bytes]:
    """Begin a command on a processor of that name; its output goes to files, so that it waits for no reader."""
    folder.mkdir()
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        return subprocess.Popen([sys.executable, *command], env=_processor(name, folder), stdout=out, stderr=err)


def _on_all_processors(command: list[str], folder: Path) -> Iterator[dict[str, tuple[subprocess.Popen[bytes], Path]]]:
    """The command on each of `PROCESSORS` at a time; ended when the tests are."""
    processes = {name: (_started(command, name, folder / name), folder / name) for name in PROCESSORS}
    yield processes
    for process, _ in processes.values():
        process.kill()
        process.wait()


def _output(process: subprocess.Popen[bytes], folder: Path) -> bytes:
    out, err = folder / "out", folder / "err"
    assert process.wait(600) == 0, out.read_bytes().decode(errors="replace")[-4000:] + err.read_text()[-2000:]
    return out.read_bytes()


# -- results --------------------------------------------------------------------------------------------

_RESULTS = f"""
import pickle, sys
sys.path.insert(0, {str(FOLDER)!r})
from test_portability import results
sys.stdout.buffer.write(pickle.dumps(results()))
"""


def results() -> list[dict[str, np.ndarray]]:
    """Everything that is computed of short and of long rows."""
    sys.path.insert(0, str(FOLDER))
    from test_numba import every_result, logits

    from softbench_backends.numba import NumbaBackend

    return [every_result(NumbaBackend(), logits(n, k, np.float32)) for n, k in ((5, 3), (3, 100))]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[subprocess.Popen[bytes], Path]]]:
    yield from _on_all_processors(["-c", _RESULTS], tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def here() -> list[dict[str, np.ndarray]]:
    return results()


@x86_64
@pytest.mark.parametrize("processor", PROCESSORS)
def test_results_on_other_processors(processor, elsewhere, here):
    """Narrower vectors give the same bits. What is without a fused multiply-add rounds more often."""
    for got, expected in zip(pickle.loads(_output(*elsewhere[processor])), here, strict=True):
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            if processor == "haswell":
                assert got[name].tobytes() == value.tobytes(), f"{name} differs"
            else:
                rtol = 0.0 if name == "argmax" else 16 * np.finfo(np.float32).eps
                atol = rtol * np.abs(value).max() if "gradient" in name else 0.0  # p - q may be next to nothing
                np.testing.assert_allclose(got[name], value, rtol=rtol, atol=atol, err_msg=name)


_CALLS = """
from numba import njit, types
from softbench_backends.numba import kernels, numba_internals
for op, rows, *dtypes in (
    ("softmax", "LONG", types.float32, types.float64),
    ("index", "SHORT", types.float64),
    ("log_softmax", "STRIDED_SHORT", types.float32),
):
    kernel = kernels.KERNELS[op, kernels.Rows[rows]]
    for dtype in dtypes:
        ndim = 3 if rows.startswith("STRIDED") else 2
        size = (types.int64,) if ndim == 3 else ()
        signature = (*kernel.arguments(dtype, ndim), *size, types.int64, types.int64, types.boolean)
        compiled = njit(kernel.function.py_func, error_model="numpy", **numba_internals.kernel_options)
        compiled.compile(signature)
        print(compiled.overloads[signature].library.get_asm_str())
"""


@x86_64
def test_no_function_is_called_for_a_number(tmp_path):
    """As the C library's fused multiply-add would be, where there is no such instruction."""
    assembly = _output(_started(["-c", _CALLS], "x86-64", tmp_path / "x86-64"), tmp_path / "x86-64")
    assert len(re.findall(rb"mulp[sd]\s", assembly)) > 1000
    assert not re.findall(rb"\bfmaf?\b", assembly)


# -- the stack ------------------------------------------------------------------------------------------

_ASSEMBLY = """
from numba import njit, types
from softbench_backends.numba import long_rows
from softbench_backends.numba.numba_internals import kernel_options
matrix = types.Array(types.float32, 2, "C")
signature = (matrix, matrix, types.int64, types.int64, types.boolean)
kernel = njit(long_rows.softmax_kernel.py_func, error_model="numpy", **kernel_options)
kernel.compile(signature)
print(kernel.overloads[signature].library.get_asm_str())
"""


@x86_64
def test_vectors_on_the_stack_cross_no_cache_line(tmp_path):
    """Registers do not suffice where they are narrow, and a store that crosses a page takes hundreds of cycles."""
    functions = _output(_started(["-c", _ASSEMBLY], "haswell", tmp_path / "haswell"), tmp_path / "haswell").split(
        b".cfi_startproc"
    )[1:]
    spilling = [text for text in functions if len(re.findall(rb"vmov\wp\w\s+%ymm\d+, \S*\(%rsp\)", text)) > 8]
    assert spilling
    assert all(re.search(rb"andq\s+\$-(32|64), %rsp", text) for text in spilling)


# -- conformance ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[subprocess.Popen[bytes], Path]]]:
    command = ["-m", "softbench", "check", "numba", "--quick"]
    yield from _on_all_processors(command, tmp_path_factory.mktemp("kit"))


@x86_64
@pytest.mark.deep
@pytest.mark.parametrize("processor", PROCESSORS)
def test_other_processors_pass_the_kit(processor, judged):
    """Everything is compiled anew, for both at a time: a minute or two."""
    assert b"passes" in _output(*judged[processor])


# -- the study of portability -----------------------------------------------------------------------------


_TAKEN_FOR = """
import numpy as np
from numba import njit
add = njit(lambda x: x + 1)
add(1.0)
print(add.targetctx.codegen().magic_tuple()[1], *np.show_config("dicts")["SIMD Extensions"].get("found", ()))
"""
"""Prints the processor that Numba compiles for, and the extensions of which NumPy has loops."""


@x86_64
@pytest.mark.parametrize("name", ["haswell", "x86-64"])
def test_processes_of_the_study_take_this_processor_for_another(name, monkeypatch):
    from benchmarks.studies import portability

    given = {}
    monkeypatch.setattr(portability.processes, "start", lambda command, *, env, **_: given.update(env))
    portability.start(name, 1.0)
    printed = subprocess.run([sys.executable, "-c", _TAKEN_FOR], env=given, capture_output=True, text=True, check=True)
    processor, *extensions = printed.stdout.split()
    assert processor == name
    assert not {kind for kind in extensions if kind == "X86_V4" or kind.startswith("AVX512")}
    assert name == "haswell" or not {"AVX2", "X86_V3"} & set(extensions)


@x86_64
def test_processors_are_measured_side_by_side(tmp_path, monkeypatch, capsys):
    from benchmarks.studies import portability

    path, case = tmp_path / "found.json", "softmax-4096x1000-f32-out"
    monkeypatch.chdir(FOLDER.parents[1])
    command = ["native", "x86-64", "--cases", case, "--seconds", "0.1", "--out", str(path)]
    assert portability.portability(command) == 0
    record = json.loads(path.read_text())
    assert record["schema"] == "softbench.run/2"
    results = record["cases"][0]["results"]
    assert set(results) == {f"{backend} on {name}" for backend in ("numba", "numpy") for name in ("native", "x86-64")}
    header, _, row = capsys.readouterr().out.splitlines()
    assert header == "| case | native | x86-64 | x86-64 / native |"
    assert row.startswith(f"| {case} |")
    ratio = row.split(" | ")[-1]
    assert float(ratio.removesuffix(" |")) > 0
    assert portability.portability(["--table", str(path)]) == 0  # as in the guide: ratios alone
    header, _, row = capsys.readouterr().out.splitlines()
    assert header == "| case | NumPy / numba, native | NumPy / numba, x86-64 | x86-64 / native |"
    assert row.startswith(f"| {case} |")
    assert row.endswith(ratio)


def test_a_process_that_died_is_named():
    from benchmarks.studies import portability

    with subprocess.Popen(
        [sys.executable, "-c", "raise SystemExit(3)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        child.wait()
        with pytest.raises(RuntimeError, match="softmax-1x10-f32: the process ended with status 3"):
            portability.ask(child, "softmax-1x10-f32")


# -- AArch64 --------------------------------------------------------------------------------------------


def _portable_ir(*arguments: str, cache: Path, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run portable_ir.py, after ``code``."""
    program = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n{code}\nimport portable_ir\nportable_ir.main(sys.argv[1:])"
    )
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        env={**os.environ, "NUMBA_OPT": "0", "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


SAMPLE = ("softmax float32 long serial", "index float64 short serial", "argmax float32 strided short serial")


@pytest.mark.parametrize("labels", [SAMPLE, pytest.param((), marks=pytest.mark.deep)], ids=["sample", "all"])
def test_kernels_compile_for_aarch64(labels, tmp_path):
    done = _portable_ir(*labels, cache=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    kernels, functions = (int(word) for word in done.stdout.split() if word.isdigit())
    assert kernels == len(labels) or (not labels and kernels > 50)
    assert functions > 10 * len(SAMPLE)


_PLANTED = """
from llvmlite import ir
from softbench_backends.numba import exponential
from softbench_backends.numba.lanes import multiply_add

def planted(a, b, c):
    module = a.builder.module
    nothing = ir.FunctionType(ir.VoidType(), [])
    name = "llvm.x86.sse2.pause"
    a.builder.call(module.globals.get(name) or ir.Function(module, nothing, name), [])
    return multiply_add(a, b, c)

exponential.multiply_add = planted
"""


@x86_64
def test_an_x86_intrinsic_in_a_kernel_is_found(tmp_path):
    done = _portable_ir("softmax float32 short serial", cache=tmp_path, code=_PLANTED)
    assert done.returncode != 0
    assert "intrinsics of one kind of processor: llvm.x86.sse2.pause" in done.stderr
