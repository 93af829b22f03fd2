"""The data that solvers are compared on: seeded, of the kinds that softmax regression is used for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np

__all__ = ["DATA", "Data", "load", "save", "select"]


def images(n: int, p: int, k: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Like handwritten digits: pixels from 0 to 1, many of them 0, that their neighbours say much of."""
    y = rng.integers(0, k, n)
    side = int(p**0.5)
    grid = np.arange(side)
    smooth = np.exp(-0.5 * ((grid[:, None] - grid) / 2.0) ** 2)
    smooth /= smooth.sum(axis=1, keepdims=True)

    def blurred(many: int) -> Any:
        noise = rng.standard_normal((many, side, side), dtype=np.float32)
        return np.einsum("ab,nbc,dc->nad", smooth, noise, smooth, optimize=True).reshape(many, p).astype(np.float32)

    prototypes, strokes = 2.0 * blurred(k), 4.0 * blurred(60)
    X = np.empty((n, p), np.float32)
    for start in range(0, n, 4096):
        rows = slice(start, min(start + 4096, n))
        z = rng.standard_normal((rows.stop - start, len(strokes)), dtype=np.float32) * 0.3
        X[rows] = prototypes[y[rows]] + z @ strokes - 0.25
    np.clip(X, 0.0, 1.0, out=X)
    wrong = rng.random(n) < 0.05
    y[wrong] = rng.integers(0, k, int(wrong.sum()))
    return X, y


def embeddings(n: int, p: int, k: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Like the last layer of a network: features of spreads that fall off, around the centres of the classes."""
    y = rng.integers(0, k, n)
    y[:k] = rng.permutation(k)[:n]  # every class occurs, also in a part of the rows
    scale = np.arange(1, p + 1, dtype=np.float32) ** -0.3
    centres = rng.standard_normal((k, p), dtype=np.float32) * scale * 0.4
    X = rng.standard_normal((n, p), dtype=np.float32) * scale
    X += centres[y]
    return X, y


def text(n: int, p: int, k: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Like words of documents, weighted and normed: a hundred in each, few of them common."""
    import scipy.sparse as sp

    y = rng.integers(0, k, n)
    words = np.minimum((p * rng.random((n, 100)) ** 3).astype(np.int32), p - 1)
    topical = rng.random((n, 100)) < 0.2
    words[topical] = (words[topical] // k * k + np.broadcast_to(y[:, None], words.shape)[topical]) % p
    bounds = np.arange(0, words.size + 1, 100, dtype=np.int32)  # of int64, two of scikit-learn's solvers take none
    X = sp.csr_array((np.ones(words.size, np.float32), words.reshape(-1), bounds), (n, p))
    X.sum_duplicates()
    idf = np.log(n / (1.0 + np.bincount(X.indices, minlength=p))).astype(np.float32)
    X.data = (1.0 + np.log(X.data)) * idf[X.indices]
    norms = np.sqrt(np.add.reduceat(X.data**2, X.indptr[:-1]))
    X.data /= np.repeat(norms, np.diff(X.indptr))
    return X, y


def digits(n: int, p: int, k: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """scikit-learn's digits."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return X, y


class Data(NamedTuple):
    """A problem; the penalty is scikit-learn's with ``C = 1``."""

    make: Callable[[int, int, int, np.random.Generator], tuple[Any, Any]]
    shape: tuple[int, int, int]
    """Rows, features, classes."""
    why: str
    rows: Mapping[str, int] = MappingProxyType({})
    """By profile, fewer rows where all would take longer than the profile may; 0: not in it."""
    whole: int = 0
    """Rows of the problem that this one stands for, if there are more: memory is extrapolated to them."""

    def of(self, profile: str) -> Data:
        """As it is in a profile."""
        n, p, k = self.shape
        return self._replace(shape=(self.rows.get(profile, n), p, k))

    def arrays(self) -> tuple[Any, Any]:
        """``X`` and ``y``."""
        return self.make(*self.shape, np.random.default_rng(15))


DATA: Final = {
    "digits": Data(digits, (1797, 64, 10), "small images, raw"),
    "mnist": Data(images, (60_000, 784, 10), "images, many rows", {"quick": 6_000}),
    "text": Data(text, (20_000, 50_000, 20), "documents: sparse, more parameters than entries", {"quick": 0}),
    "many-classes": Data(
        embeddings, (50_000, 256, 1000), "a thousand classes: logits outweigh features", {"quick": 0, "standard": 3_000}
    ),
    "probe": Data(
        embeddings, (20_000, 768, 1000), "a linear probe on embeddings", {"quick": 0, "standard": 2_000}, 1_280_000
    ),
}
"""By name. Standard runs take a part of the rows of the two with a thousand classes; full ones take all."""


def select(patterns: Sequence[str], profile: str) -> dict[str, Data]:
    """Data sets by names or patterns; none: all of the profile. ValueError for a pattern that matches nothing."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in DATA):
            raise ValueError(f"no data set matches {pattern!r}: there are {', '.join(DATA)}")
    named = {n: d for n, d in DATA.items() if any(fnmatchcase(n, pattern) for pattern in patterns)}
    if named:  # what is asked for by name is taken, if need be as in the next larger profile
        return {n: d.of(profile) if d.of(profile).shape[0] else d.of("standard") for n, d in named.items()}
    return {n: d.of(profile) for n, d in DATA.items() if d.of(profile).shape[0]}


def save(X: Any, y: Any, folder: Path) -> None:
    """Write a problem for the processes that fit it."""
    np.save(folder / "y.npy", y)
    if hasattr(X, "indptr"):
        import scipy.sparse as sp

        sp.save_npz(folder / "X.npz", X, compressed=False)
    else:
        np.save(folder / "X.npy", X)


def load(folder: Path) -> tuple[Any, Any]:
    """What `save` has written."""
    y = np.load(folder / "y.npy")
    if (folder / "X.npz").exists():
        import scipy.sparse as sp

        return sp.csr_array(sp.load_npz(folder / "X.npz")), y
    return np.load(folder / "X.npy"), y
