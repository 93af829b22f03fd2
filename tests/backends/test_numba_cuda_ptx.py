"""What the kernels of the numba_cuda backend compile to: PTX by NVVM, machine code by ptxas. Nothing is run.

Every check has a planted fault that it must find.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec

import numpy as np
import pytest

from softbench.interface.row_plan import Regime, RowPlan

pytestmark = [
    pytest.mark.skipif(
        find_spec("numba_cuda") is None or os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0"),
        reason="numba-cuda is not installed, or simulates",
    ),
    pytest.mark.skipif(not hasattr(np, "row_stack"), reason="numba-cuda compiles nothing with NumPy 2.5 and later"),
]
STATIC = pytest.mark.gpu_static
CAPABILITIES = [(8, 0), (9, 0), (10, 0), (12, 0)]
OPERATIONS = ("logsumexp", "softmax", "log_softmax", "index", "soft", "smooth", "smooth_weighted")
WITH_ENTRIES = [name for name in OPERATIONS if name != "logsumexp"]
DTYPES = ("float32", "float64", "float16", "bfloat16")
# A warp per row, a block per row in registers, in shared memory, in segments.
REGIMES = (256, 2048, 16384, 1 << 20)


class Compiler:
    """Compiles kernels as the backend does, for a card that need not be here."""

    def __init__(self, monkeypatch, capability):
        from numba.cuda import dispatcher

        from softbench_backends.numba_cuda import arithmetic, kernels, lanes, launch, losses, memory, operations, rows
        from softbench_backends.numba_cuda import plan as plans

        class Device:
            compute_capability = capability

        # Device functions are compiled for "the current device"; those already compiled may be for another.
        monkeypatch.setattr(dispatcher, "get_current_device", Device)
        self.capability, self.kernels, self.launch, self.rows, self.plans = capability, kernels, launch, rows, plans
        self.arithmetic, self.lanes, self.memory = arithmetic, lanes, memory
        self.operations, self.losses = operations, losses

    def plan(self, k, name, dtype):
        """The plan that aligned rows of ``k`` elements get."""
        plan = self.plans.plan_for(k, dtype, name in ("soft", "smooth", "smooth_weighted"))
        return plan._replace(whole=plan.width > 1)

    def held(self, values, width=1, dtype="float32", lanes=32):
        """A plan of rows held in registers."""
        return RowPlan(lanes, values, Regime.REGISTERS, 1, width, width > 1)

    def all(self, name, dtype, plan):
        """The PTX of every kernel that an operation launches for all its results, by name of the kernel."""
        results = name not in ("softmax", "log_softmax"), name != "logsumexp"
        found = self.rows.stages(name, dtype, plan, *results, "float64" if dtype == "float64" else "float32")
        return {s.factory.__name__: self.ptx(s.factory(*s.options), s.arguments, s.threads) for s in found}

    def __call__(self, name, dtype, plan):
        """The PTX of the last of them, which writes the entries."""
        return list(self.all(name, dtype, plan).values())[-1]

    def ptx(self, function, signature, threads):
        from numba import cuda

        types, options = self.launch.signature(signature), {"device": False, "launch_bounds": threads}
        return cuda.compile_ptx(function, types, cc=self.capability, **options)[0]

    def forget(self):
        """Device functions made so far, so that others are made of a module that was changed."""
        for module in (self.arithmetic, self.lanes, self.memory, self.losses):
            for function in vars(module).values():
                getattr(function, "cache_clear", lambda: None)()


@pytest.fixture(params=CAPABILITIES, ids=lambda cc: f"sm_{cc[0]}{cc[1]}")
def compiler(request, monkeypatch):
    return Compiler(monkeypatch, request.param)


# libNVVM has two, of which the newer serves compute capability 10.0 and later.
BOTH_COMPILERS = pytest.mark.parametrize("compiler", [(9, 0), (12, 0)], ids=["sm_90", "sm_120"], indirect=True)


@pytest.fixture
def sm_90(monkeypatch):
    return Compiler(monkeypatch, (9, 0))


def instructions(ptx):
    """Executable lines of the entry function, with labels; declarations and comments left out."""
    body = ptx[ptx.index(".entry") :]
    lines = (line.split("//")[0].strip() for line in body[body.index("{") + 1 :].splitlines())
    return [line for line in lines if line and not line.startswith((".", "{", "}", ")"))]


def count(ptx, pattern):
    return sum(bool(re.search(pattern, line)) for line in instructions(ptx))


def loops(ptx):
    """The instructions of each innermost loop: of every backward branch whose range holds no other."""
    lines = instructions(ptx)
    places = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    jumps = ((i, re.search(r"\bbra(?:\.uni)?\s+(\$\w+)", line)) for i, line in enumerate(lines))
    ranges = sorted({(places[jump[1]], i) for i, jump in jumps if jump and places[jump[1]] <= i})
    inner = [r for r in ranges if not any(r != s and r[0] <= s[0] and s[1] <= r[1] for s in ranges)]
    return [lines[first : last + 1] for first, last in inner]


def per_element(compiler, pattern, name, dtype="float32", few=4, many=12):
    """How often a pattern occurs per element that a lane holds: everything else of a resident kernel is per row."""
    counts = [count(compiler(name, dtype, compiler.held(values)), pattern) for values in (few, many)]
    return (counts[1] - counts[0]) / (many - few)


WIDE = r"\.f64\b"
# All operations with entries that make no float64 per element: weights of classes are float64.
NARROW = [name for name in WITH_ENTRIES if name != "smooth_weighted"]


@pytest.mark.gpu_static
@pytest.mark.parametrize("name", ["softmax", *(pytest.param(n, marks=STATIC) for n in NARROW if n != "softmax")])
def test_no_float64_per_element_of_float32_rows(sm_90, name):
    assert per_element(sm_90, WIDE, name) < 0.5  # the optimiser may move a conversion or two


@STATIC
@pytest.mark.parametrize("name", ["softmax", "index"])
@pytest.mark.parametrize("k", [16384, 1 << 20])
def test_no_float64_in_the_loop_that_writes_long_rows(sm_90, name, k):
    assert not [line for line in writing(sm_90, name, k) if re.search(WIDE, line)]


def writing(compiler, name, k):
    """Lines of the loops in which rows of ``k`` float32 are written 16 bytes at a time."""
    found = loops(compiler(name, "float32", compiler.plan(k, name, "float32")))
    lines = [line for loop in found if any(map(STORE.search, loop)) for line in loop]
    assert lines
    return lines


@STATIC
def test_planted_float64_is_found(sm_90, monkeypatch):
    from softbench_backends.numba_cuda.device import device

    @device
    def wide_fma(a, b, c):
        return np.float32(np.float64(a) * b + c)

    monkeypatch.setattr(sm_90.operations, "fma", wide_fma)
    sm_90.forget()
    try:
        assert per_element(sm_90, WIDE, "softmax") >= 3
        assert [line for line in writing(sm_90, "softmax", 1 << 20) if re.search(WIDE, line)]
    finally:
        sm_90.forget()


EXACT = r"\b(add|sub)\.rn\.f32\b"
# Per element: 6 in the shift, 6 in the sum, 1 in the reduction of the exponent.
EXACT_ADDITIONS = 13


@STATIC
@BOTH_COMPILERS
def test_error_free_additions_cannot_be_contracted(compiler):
    """A bare add may be fused with a product before it; ``add.rn`` may not, and all that must be exact are that."""
    assert EXACT_ADDITIONS <= per_element(compiler, EXACT, "softmax") < EXACT_ADDITIONS + 0.5  # one may be doubled


@STATIC
def test_planted_bare_additions_are_found(sm_90, monkeypatch):
    from softbench_backends.numba_cuda.device import device

    @device
    def bare(a, b):
        return a + b

    monkeypatch.setattr(sm_90.arithmetic, "add", bare)
    sm_90.forget()
    try:
        assert per_element(sm_90, EXACT, "softmax") == 0
    finally:
        sm_90.forget()


@STATIC
def test_the_exponential_is_a_polynomial_by_fma(sm_90):
    """One fma for the integer, two for the reduction, five for degree 6, two to scale the result; no approximation."""
    assert per_element(sm_90, r"\bfma\.rn\.f32\b", "softmax") >= 9
    assert per_element(sm_90, r"\.approx|\.ftz", "softmax") == 0


@STATIC
def test_half_precision_takes_the_hardware_exponential_and_no_float64_per_element(sm_90):
    """But for logsumexp, in which its error would show."""
    assert per_element(sm_90, r"\bex2\.approx\.f32\b", "index", "bfloat16") == 1
    assert per_element(sm_90, r"\bex2\.approx", "logsumexp", "bfloat16") == 0
    assert per_element(sm_90, WIDE, "index", "bfloat16") < 0.5


# The older compiler names the type of what it moves, the one for compute capability 10.0 and later only its size.
LOAD = re.compile(r"\bld\.global\.(nc\.)?(v4\.[fub]32|v2\.[fub]64)\b")
STORE = re.compile(r"\bst\.global\.(v4\.[fub]32|v2\.[fub]64)\b")


def vectors(ptx):
    """How many accesses of 16 bytes read and write global memory."""
    return [sum(bool(p.search(line)) for line in instructions(ptx)) for p in (LOAD, STORE)]


@pytest.mark.gpu_static
@BOTH_COMPILERS
@pytest.mark.parametrize("dtype", ["bfloat16", *(pytest.param(d, marks=STATIC) for d in DTYPES if d != "bfloat16")])
def test_a_tile_moves_16_bytes_at_a_time(compiler, dtype):
    """As many loads and stores as the bytes of a tile ask for, and none wider or narrower in their place."""
    width = 16 // compiler.memory.ITEMSIZE[dtype]
    for groups in (1, 2):
        ptx = compiler("softmax", dtype, compiler.held(groups * width, width, dtype))
        assert vectors(ptx) == [groups] * 2
        assert count(ptx, r"\b(ld|st)\.global\.") == 2 * groups


@STATIC
@pytest.mark.parametrize("k", REGIMES)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.deep)])
def test_every_regime_reads_and_writes_16_bytes_at_a_time(sm_90, dtype, k):
    plan = sm_90.plan(k, "index", dtype)
    per_tile = plan.values // plan.width
    for kernel, ptx in sm_90.all("index", dtype, plan).items():
        loads, stores = vectors(ptx)
        assert loads >= (0 if kernel == "segment_rows" else per_tile), kernel
        assert stores >= (0 if kernel in ("segment_rows", "segment_parts") else per_tile), kernel


@STATIC
def test_the_row_in_shared_memory_is_read_16_bytes_at_a_time(sm_90):
    ptx = sm_90("softmax", "float32", sm_90.plan(16384, "softmax", "float32"))
    assert count(ptx, r"\bld\.shared\.v4\.") >= 8
    assert count(ptx, r"\bst\.shared\.v4\.") >= 8
    # What is static comes first: the dynamic memory behind it begins on 16 bytes.
    sizes = [int(size) for size in re.findall(r"\.shared \.align \d+ \.b8 \S+\[(\d+)\]", ptx)]
    assert sizes
    assert all(size % 16 == 0 for size in sizes)


@STATIC
def test_what_is_not_aligned_is_moved_one_by_one(sm_90):
    ptx = sm_90("softmax", "float32", sm_90.held(8, 4)._replace(whole=False))
    assert vectors(ptx) == [0, 0]
    assert count(ptx, r"\b(ld|st)\.global\.") == 16


@STATIC
def test_planted_scalar_accesses_are_found(sm_90, monkeypatch):
    """A loop over four neighbours is no vector access to this compiler, aligned or not."""
    from softbench_backends.numba_cuda.device import device

    @device
    def one_by_one(source, at, words):
        for i in range(4):
            words[i] = source[at + i]

    monkeypatch.setattr(sm_90.memory, "load16", one_by_one)
    sm_90.forget()
    try:
        assert vectors(sm_90("softmax", "float32", sm_90.held(8, 4))) == [0, 2]
    finally:
        sm_90.forget()


@STATIC
@pytest.mark.parametrize(
    ("name", "dtype", "k"),
    [(name, "float32", 256) for name in OPERATIONS]
    + [(name, "float64", 1 << 20) for name in ("softmax", "index", "smooth_weighted")]
    + [(name, "bfloat16", 16384) for name in ("index", "soft")],
)
def test_rows_stay_in_registers_offsets_are_wide_and_nothing_is_atomic(sm_90, name, dtype, k):
    for kernel, ptx in sm_90.all(name, dtype, sm_90.plan(k, name, dtype)).items():
        assert not faults(ptx), kernel


@STATIC
@BOTH_COMPILERS  # deep: every card
def test_no_local_memory_whatever_the_card(compiler):
    for k in (256, 1 << 20):
        check_every_kernel(compiler, "index", "float32", k)
    # Two accesses to a group of float32 targets: as a loop, the newer compiler left their tile in memory.
    check_every_kernel(compiler, "soft", "bfloat16", 256)


@pytest.mark.deep
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_kernel_for_every_card(compiler, name, dtype):
    for k in REGIMES:
        check_every_kernel(compiler, name, dtype, k)
        check_every_kernel(compiler, name, dtype, k - 1)  # which 16 bytes do not divide


def check_every_kernel(compiler, name, dtype, k):
    for kernel, ptx in compiler.all(name, dtype, compiler.plan(k, name, dtype)).items():
        assert f".target sm_{compiler.capability[0]}{compiler.capability[1]}" in ptx
        assert not faults(ptx), (kernel, k)


@STATIC
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_loops_over_rows_have_none_of_these_faults_either(sm_90, dtype):
    from softbench_backends.numba_cuda import loops as kernels

    width = 16 // sm_90.memory.ITEMSIZE[dtype]
    plan = sm_90.held(width, width, dtype)
    storage = sm_90.rows.STORAGE[dtype]
    argmax = sm_90.ptx(kernels.argmax(dtype, plan), (storage, "int64", "int", "int"), 32)
    assert not faults(argmax)
    assert vectors(argmax)[0] >= 1  # the loop may be unrolled
    types = (storage, storage, "float64", "int", "int")
    assert vectors(sm_90.ptx(kernels.log_loss_soft(dtype, plan, dtype), types, 32))[0] >= 2


@STATIC
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernels_of_linear_logits_have_none_of_these_faults(sm_90, dtype):
    from softbench_backends.numba_cuda import linear
    from softbench_backends.numba_cuda.records import target_types

    threads = linear._TILE**2
    product = dtype, dtype, dtype, "int64", dtype, "int", "int", "int"
    for summed, has_bias, ignores in ((0, True, False), (linear.SUMMED_ROWS, False, True)):
        ptx = sm_90.ptx(linear._product_kernel(dtype, summed, has_bias, ignores), product, threads)
        assert faults(ptx) == ["32-bit offsets"]
        assert (
            count(ptx, r"\bmul\.lo\.[su]32") == count(ptx, r"\bdiv\.u32") == 1
        )  # a division of small numbers, no offset
        assert count(ptx, r"\bfma\.rn\.f" + dtype[-2:]) >= linear._TILE  # an unrolled tile
        if dtype == "float32":
            assert not count(ptx, r"\.f64")
    assert not faults(sm_90.ptx(linear._add_kernel(), (dtype, "float64", "float64", "int", "int"), 256))
    for labelled, soft in ((True, False), (False, True)):
        kernel = linear._curvature_kernel(dtype, labelled, soft, linear._LANES, linear._ROWS)
        assert not faults(sm_90.ptx(kernel, (dtype, dtype, target_types(dtype), "int", "int"), 256))


def faults(ptx):
    """What a row kernel must not contain."""
    found = {
        "local memory": ".local" in ptx,
        "calls": count(ptx, r"\bcall\b"),
        "atomics": count(ptx, r"\b(atom|red)\."),
        "32-bit offsets": count(ptx, r"\b(mul|mad)\.lo\.[su]32"),  # mul.wide has a 64-bit result
        "generic loads": count(ptx, r"\b(ld|st)\.(v\d\.)?(f|u|b|s)(16|32|64)"),
    }
    return [name for name, present in found.items() if present]


def test_planted_faults_are_found(sm_90):
    from numba import cuda

    def indexed_by_data(x, out, n, k):
        tile = cuda.local.array(16, np.float32)
        for i in range(16):
            tile[i] = x[i]
        out[0] = tile[k % 16]

    def narrow(x, out, n, k):
        row = np.int32(cuda.blockIdx.x * np.int32(k))
        out[row] = x[row]

    signature = ("float32", "float32", "int", "int")
    assert "local memory" in faults(sm_90.ptx(indexed_by_data, signature, 128))
    assert "32-bit offsets" in faults(sm_90.ptx(narrow, signature, 128))


def assembled(ptx):
    """What ptxas says of a kernel: bytes spilled, registers."""
    core = pytest.importorskip("cuda.core", reason="cuda.core is not installed")
    try:
        options = core.LinkerOptions(arch="sm_90", ptxas_options=["-v"], verbose=True)
        linker = core.Linker(core.ObjectCode.from_ptx(ptx.encode()), options=options)
        linker.link("cubin")
    except Exception as error:
        pytest.skip(f"nvJitLink cannot assemble here: {error}")
    log = linker.get_info_log()
    return int(re.search(r"(\d+) bytes spill stores", log)[1]), int(re.search(r"Used (\d+) registers", log)[1])


@STATIC
@pytest.mark.parametrize(("name", "dtype"), [("index", "float32"), ("soft", "float64"), ("soft", "float16")])
def test_the_largest_tiles_spill_no_registers(sm_90, name, dtype):
    plans = {sm_90.plan(k, name, dtype) for k in (*REGIMES, 1024, 8192)}
    largest = max(plans, key=lambda p: (p.values, p.lanes))
    widest = max(plans, key=lambda p: (p.lanes, p.regime is Regime.SHARED, p.length))
    for plan in (largest, widest):
        for kernel, ptx in sm_90.all(name, dtype, plan).items():
            spilled, registers = assembled(ptx)
            assert spilled == 0, (kernel, plan, registers)
            assert registers * plan.threads <= 1 << 16, kernel


@STATIC
def test_planted_spills_are_found(sm_90):
    spilled, _ = assembled(sm_90("index", "float32", sm_90.held(32, 4, lanes=1024)))
    assert spilled > 0
