"""What a call can be like: factors, their levels, and the arrays in which they are combined.

A bug that shows only where two or three things come together (a mean, and K with a certain remainder; class weights,
and smoothing, and the tail of a row) is met by no list of calls that somebody thought of. A *covering array* has every
pair, or every triple, of levels in some row, in as few rows as a library finds (`softbench.conformance.covering`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = ["ARRAYS", "FACTORS", "Array", "Forbidden"]

_UNSIGNED: Final = ("uint8", "uint16", "uint32", "uint64")
_SIGNED: Final = ("int8", "int16", "int32", "int64")
_ONE_BY_ONE: Final = (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48)
_ROWS: Final = (*_ONE_BY_ONE, 63, 64, 65, 96, 127, 128, 129, 192, 255, 256, 257, 384, 511, 512, 513, 768)
_MANY: Final = (1000, 1023, 1024, 1025, 1536, 2047, 2048, 2049, 4096, 4097)


def _texts(*values: object) -> tuple[str, ...]:
    return tuple(map(str, values))


FACTORS: Final[dict[str, tuple[str, ...]]] = {
    "dtype": ("float16", "bfloat16", "float32", "float64"),
    "any dtype": ("float16", "bfloat16", "float32", "float64", "int32", "uint8"),
    "K mod 64": _texts(*range(64)),
    "K": ("1-64", "65-128", "129-256", "257-1024", "1025-4160"),
    "few classes": _texts(1, 2, 3, 4, 5, 7, 8, 9, 10, 16, 17, 33),
    "some classes": _texts(1, 2, 5, 8, 17, 40, 67),
    "N": _texts(*_ROWS, *_MANY),
    "long rows": _texts(8191, 8192, 8193, 12_289, 16_384, 16_385, 20_011, 32_768, 49_153, 65_536, 65_537, 100_003),
    "many rows": _texts(8191, 16_385, 65_537, 131_073),
    "few rows": _texts(1, 2, 3, 5),
    "some rows": _texts(1, 6, 12, 30, 64, 77, 128),
    "values": ("moderate", "hard", "one kind", "absent", "special"),
    "reduction": ("none", "sum", "mean"),
    "class_weight": ("none", "ordinary", "equal", "zeros", "extreme"),
    "sample_weight": ("none", "ordinary", "equal", "zeros", "extreme"),
    "weights": ("float64", "float32", "int64", "strided", "reversed", "byte-swapped"),
    "label_smoothing": _texts(0.0, 1e-7, 0.1, 0.75, 1.0),
    "ignored": ("none", "unused", "scattered", "block starts", "block ends", "a run", "first", "last", "all but one"),
    "ignore_index": ("inside", "negative", "beyond"),
    "validate": ("True", "False", "False, invalid labels"),
    "labels": (*_SIGNED, *_UNSIGNED),
    "target layout": ("C", "strided", "reversed", "byte-swapped", "read-only", "unaligned"),
    "distribution": ("Dirichlet", "one-hot", "sparse", "within tolerance", "uniform", "any sum, any sign"),
    "distribution dtype": ("float64", "float32", "float16", "bfloat16", "int8"),
    "layout": ("C", "F", "strided", "reversed", "unaligned", "byte-swapped", "read-only", "broadcast"),
    "axis": (
        "-1 of 2",
        "0 of 2",
        "0 of 1",
        "0 of 3",
        "1 of 3",
        "-1 of 3",
        "0 of 4",
        "1 of 4",
        "2 of 4",
        "-1 of 4",
        "1 of 5",
        "2 of 5",
    ),
    "out": ("none", "separate", "in place", "strided", "reversed", "F", "interleaved"),
}
"""Every factor with its levels."""

Forbidden = tuple[tuple[str, tuple[str, ...]], tuple[str, tuple[str, ...]]]
"""Two factors, each with levels, of which none may meet one of the other."""


class Array(NamedTuple):
    """A covering array to be made."""

    why: str
    factors: tuple[str, ...]
    triples: tuple[str, ...]
    """Factors of which every triple of levels is met; of the others every pair, with these too."""
    forbidden: tuple[Forbidden, ...] = ()
    levels: Mapping[str, tuple[str, ...]] = {}
    """Levels of factors that it leaves others out of."""


def _except(factor: str, *left_out: str) -> tuple[str, ...]:
    return tuple(level for level in FACTORS[factor] if level not in left_out)


ARRAYS: Final[dict[str, Array]] = {
    "classes": Array(
        "every remainder of K, in every range of K, with every option",
        ("K mod 64", "K", "dtype", "few rows", "values", "reduction", "class_weight", "sample_weight",
         "label_smoothing", "distribution", "ignored"),
        ("K mod 64", "K", "dtype", "reduction", "class_weight", "sample_weight", "label_smoothing"),
        levels={"ignored": ("none", "scattered"), "class_weight": ("none", "ordinary", "zeros", "extreme"),
                "sample_weight": ("none", "ordinary", "extreme"), "label_smoothing": _texts(0.0, 1e-7, 0.1, 1.0)},
    ),
    "rows": Array(
        "every number of rows at which blocks end, with every option and every pattern of ignored rows",
        ("N", "few classes", "dtype", "values", "reduction", "class_weight", "sample_weight", "label_smoothing",
         "ignored", "ignore_index", "validate", "distribution"),
        ("N", "reduction", "sample_weight"),
        forbidden=((("N", _texts(*_MANY)), ("few classes", ("7", "8", "9", "10", "16", "17", "33"))),),
        levels={"class_weight": ("none", "ordinary", "equal", "zeros"),
                "sample_weight": ("none", "ordinary", "zeros")},
    ),
    "memory": Array(
        "every layout, axis, dtype and byte order of every argument, with every option",
        ("any dtype", "axis", "layout", "out", "some rows", "some classes", "labels", "target layout", "weights",
         "distribution dtype", "reduction", "class_weight", "sample_weight", "label_smoothing", "ignored",
         "ignore_index", "validate"),
        ("axis", "layout", "out", "reduction", "class_weight", "sample_weight"),
        forbidden=(
            (("out", ("in place",)), ("layout", ("byte-swapped", "read-only", "broadcast"))),
            (("out", ("in place",)), ("any dtype", ("int32", "uint8"))),
            (("out", ("interleaved",)), ("layout", _except("layout", "strided"))),
            (("out", ("interleaved",)), ("any dtype", ("int32", "uint8"))),
            (("ignore_index", ("negative",)), ("labels", _UNSIGNED)),
        ),
        levels={"class_weight": ("none", "ordinary"), "sample_weight": ("none", "ordinary"),
                "label_smoothing": _texts(0.0, 0.1), "ignored": ("none", "scattered", "last")},
    ),
    "long": Array(
        "rows longer than tiles, blocks and caches, with every option",
        ("long rows", "few rows", "dtype", "values", "reduction", "class_weight", "sample_weight", "label_smoothing",
         "distribution", "ignored"),
        (),
        forbidden=((("dtype", ("float64",)), ("long rows", _texts(32_768, 49_153, 65_536, 65_537, 100_003))),),
        levels={"few rows": _texts(1, 2, 3), "dtype": ("float16", "float32", "float64"),
                "class_weight": ("none", "ordinary", "equal"), "sample_weight": ("none", "ordinary", "equal"),
                "ignored": ("none", "scattered")},
    ),
    "many": Array(
        "more rows than blocks, chunks and 16-bit counters hold, with every option",
        ("many rows", "few classes", "dtype", "values", "reduction", "class_weight", "sample_weight",
         "label_smoothing", "distribution", "ignored", "ignore_index", "validate"),
        (),
        forbidden=((("many rows", _texts(65_537, 131_073)), ("few classes", _texts(3, 5))),),
        levels={"few classes": _texts(1, 2, 3, 5), "dtype": ("float16", "float32", "float64"),
                "class_weight": ("none", "ordinary", "equal"), "sample_weight": ("none", "ordinary", "equal"),
                "distribution": ("Dirichlet", "one-hot", "any sum, any sign"),
                "ignored": ("none", "scattered", "block starts", "last")},
    ),
}  # fmt: skip
