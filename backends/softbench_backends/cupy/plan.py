"""Which kernel instance runs for which rows: it depends on K, dtype and operation, never on N.

====================  ==========================================================================
K                     kernel
====================  ==========================================================================
up to 512             ``resident``: 4 to 32 lanes of a warp per row, row in registers
up to 4096            ``resident``: a block of 64 to 256 threads per row (float64: up to 2048)
row up to 72 KB       ``staged``: a block per row, row in shared memory
row up to 864 KB      ``clustered``: 2, 4 or 8 blocks per row, row in their shared memory
beyond                ``segment_sums``, ``segment_write``: up to 256 blocks per row, read twice
====================  ==========================================================================

What only losses or logsumexp want of the last regime is read once. A device without clusters (compute capability below
9.0, or a partition of a device in which the largest cluster does not start) uses the last regime from 72 KB on, one
with 64 KB of shared memory per block from 63 KB on, one whose blocks have 99 KB and clusters from 784 KB on. Bits may
differ between such devices, but not on one device.
"""

from __future__ import annotations

from typing import Final

from softbench.interface.dtypes import ITEMSIZE, compute_dtype
from softbench.interface.row_plan import Regime, RowPlan, vector_width

__all__ = [
    "BLOCK_BYTES",
    "CHUNK_DOUBLES",
    "LABEL_TYPES",
    "MOST_BLOCKS",
    "MOST_BLOCK_BYTES",
    "MOST_LANES",
    "PART_DOUBLES",
    "RESIDENT_BLOCK",
    "ROW_OPERATIONS",
    "SEGMENT_BLOCK",
    "STAGED_BLOCK",
    "STAGED_BYTES",
    "STAGED_PACKS",
    "STAGED_PACKS_OF_HALVES",
    "STAGED_SLOTS",
    "STORAGE",
    "SUMS_OF",
    "SUM_BLOCK",
    "SUM_CHUNK",
    "WARPED_BLOCK",
    "boundaries",
    "instances",
    "loop_plan",
    "rows",
    "shared_bytes",
]

STORAGE: Final = {"float16": "half_t", "bfloat16": "bf16_t", "float32": "float", "float64": "double"}
"""C++ type of each row dtype."""

LABEL_TYPES: Final = {
    "int8": "signed char",
    "uint8": "unsigned char",
    "int16": "short",
    "uint16": "unsigned short",
    "int32": "int",
    "uint32": "unsigned",
    "int64": "i64",
    "uint64": "u64",
}
"""C++ type of each dtype of labels."""

ROW_OPERATIONS: Final = ("logsumexp", "softmax", "log_softmax", "index", "smooth", "soft")
"""Operations of `softbench.interface.device_backend.DeviceBackend.run`; C++ names them in capitals."""

SUMS_OF: Final = {
    "logsumexp": "logsumexp",
    "softmax": "softmax",
    "log_softmax": "softmax",
    "index": "index",
    "smooth": "smooth",
    "soft": "soft",
}
"""The operation whose ``segment_sums`` serves each operation."""

_RESIDENT: Final = {  # by size of the numbers computed with: largest K, lanes per row, values per lane
    4: (
        (16, 4, 4),
        (32, 8, 4),
        (64, 16, 4),
        (128, 32, 4),
        (256, 16, 16),
        (512, 32, 16),
        (1024, 64, 16),
        (2048, 128, 16),
        (4096, 256, 16),
    ),
    8: (
        (16, 4, 4),
        (32, 8, 4),
        (64, 16, 4),
        (128, 32, 4),
        (256, 32, 8),
        (512, 64, 8),
        (1024, 128, 8),
        (2048, 256, 8),
    ),
}

_WARP: Final = 32
WARPED_BLOCK: Final = 128
"""Threads of a block whose rows take a warp or less each."""
RESIDENT_BLOCK: Final = 256
"""The most of one whose row stays in registers."""
MOST_LANES: Final = 1024
"""The most of one that loops over its row."""
STAGED_BLOCK: Final = 256
STAGED_PACKS: Final = 4
"""Packs of 16 bytes that a thread works on at once, of rows in shared memory."""
STAGED_PACKS_OF_HALVES: Final = 2
STAGED_SLOTS: Final = 1024
"""Bytes of shared memory before a row's elements."""
BLOCK_BYTES: Final = 72 << 10
"""Elements a block keeps in shared memory: three blocks fit a multiprocessor of 228 KB, so that one reads while another
computes and the third writes."""
MOST_BLOCK_BYTES: Final = 108 << 10
"""The same in the largest clusters: two blocks fit."""
MOST_BLOCKS: Final = 8
"""Blocks of the largest clusters: what every device with clusters starts, unless it is partitioned."""
STAGED_BYTES: Final = MOST_BLOCKS * MOST_BLOCK_BYTES
"""The largest row that a device with clusters keeps on chip."""
_STAGED: Final = (
    (1, BLOCK_BYTES),
    (2, 2 * BLOCK_BYTES),
    (4, 4 * BLOCK_BYTES),
    (MOST_BLOCKS, STAGED_BYTES),
)  # blocks, row's bytes
SEGMENT_BLOCK: Final = 512
_SEGMENT_MIN: Final = 8192  # a segment's block should outlive the cost of combining segments
_SEGMENT_STEP: Final = 4096  # elements a block reads per step, at most: segments are whole steps
_SEGMENTS_MAX: Final = 256
PART_DOUBLES: Final = 9
"""Of what a segment leaves of its sums: ``StoredPart``."""
SUM_BLOCK: Final = 256
SUM_CHUNK: Final = 8192
"""Numbers that a block sums."""
CHUNK_DOUBLES: Final = 4
"""Of what it leaves of them: ``Chunk``."""


def rows(k: int, dtype: str, staged_bytes: int = STAGED_BYTES) -> RowPlan:
    """The plan for rows of ``k`` elements on a device that can keep ``staged_bytes`` of a row in shared memory."""
    for most, lanes, values in _RESIDENT[ITEMSIZE[compute_dtype(dtype)]]:
        if k <= most:
            return RowPlan(lanes, values, Regime.REGISTERS, _rows_per_block(lanes), vector_width(k, dtype, values))
    width = 16 // ITEMSIZE[dtype]
    for blocks, most in _STAGED:
        if k * ITEMSIZE[dtype] <= min(most, staged_bytes):
            regime = Regime.SHARED if blocks == 1 else Regime.CLUSTER
            length = _whole(-(-k // blocks), width)
            values = width * (STAGED_PACKS_OF_HALVES if ITEMSIZE[dtype] == 2 else STAGED_PACKS)
            return RowPlan(STAGED_BLOCK, values, regime, width=width, length=length, blocks=blocks)
    width = vector_width(k, dtype)
    length = max(_SEGMENT_MIN, _whole(-(-k // _SEGMENTS_MAX), _SEGMENT_STEP))
    return RowPlan(SEGMENT_BLOCK, width, Regime.SEGMENTS, width=width, length=length)


def shared_bytes(plan: RowPlan, dtype: str) -> int:
    """Bytes of dynamic shared memory that a block asks for."""
    if plan.regime in (Regime.SHARED, Regime.CLUSTER):
        return STAGED_SLOTS + plan.length * ITEMSIZE[dtype]
    return 0


def _whole(n: int, step: int) -> int:
    return -(-n // step) * step


def boundaries(dtype: str, staged_bytes: int = STAGED_BYTES) -> list[int]:
    """The largest K of each kernel but the last, for rows of ``dtype``."""
    staged = {min(most, staged_bytes) // ITEMSIZE[dtype] for _, most in _STAGED}
    return sorted({most for most, _, _ in _RESIDENT[ITEMSIZE[compute_dtype(dtype)]]} | staged)


def loop_plan(k: int) -> RowPlan:
    """The plan of kernels that loop over a row: argmax, log loss, checks."""
    lanes = next((lanes for most, lanes, _ in _RESIDENT[4] if k <= most), MOST_LANES)
    return RowPlan(lanes, 1, Regime.REGISTERS, _rows_per_block(lanes))


def _rows_per_block(lanes: int) -> int:
    """Several where a row takes a warp or less, else one."""
    return max(WARPED_BLOCK // lanes, 1) if lanes <= _WARP else 1


def instances(dtypes: tuple[str, ...] = tuple(STORAGE), clusters: bool = True) -> list[str]:
    """Every kernel instance that rows of ``dtypes`` can ask for, by name; and those that no row dtype touches."""
    names = ["sum_chunks", "sum_total"]
    names += [f"check_labels<{label}>" for label in LABEL_TYPES.values()]
    names.append("convert<double, bf16_t>")
    for dtype in dtypes:
        storage, compute = STORAGE[dtype], STORAGE[compute_dtype(dtype)]
        widths = 1, 16 // ITEMSIZE[dtype]
        names += [f"argmax<{storage}, {width}>" for width in widths]
        names += [f"log_loss_index<{storage}>", f"log_loss_soft<{storage}>"]
        names += [f"check_range<{storage}>", f"check_distribution<{storage}>"]
        names += [f"soft_rows<{storage}, float>", f"soft_rows<{storage}, double>"]
        held = sorted({elements for _, _, elements in _RESIDENT[ITEMSIZE[compute_dtype(dtype)]]})
        for operation in map(str.upper, ROW_OPERATIONS):
            for elements in held:
                names += [f"resident<{storage}, {operation}, {min(w, elements)}, {elements}>" for w in widths]
            names.append(f"staged<{storage}, {operation}>")
            if clusters:
                names += [f"clustered<{storage}, {operation}, {blocks}>" for blocks, _ in _STAGED[1:]]
            for width in widths:
                if operation.lower() in SUMS_OF.values():
                    names.append(f"segment_sums<{storage}, {operation}, {width}>")
                names.append(f"segment_write<{storage}, {operation}, {width}>")
        if compute == storage:
            names += [f"add_parts<{storage}>", f"curvature<{storage}>"]
        else:
            names.append(f"convert<{storage}, {compute}>")
    return names
