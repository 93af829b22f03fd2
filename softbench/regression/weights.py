"""What the rows of a fit count."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import compute_class_weight
from sklearn.utils.validation import _check_sample_weight

__all__ = ["check_classes", "no_weight", "row_weights"]


def row_weights(
    sample_weight: Any, class_weight: Any, X: Any, y: Any, classes: Any, labels: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """The weight of each row ``(N,)``, that of its class included; None if all count the same. ValueError."""
    if sample_weight is None and class_weight is None:
        return None
    weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    if class_weight is not None:
        options = {} if sample_weight is None else {"sample_weight": weights}
        present = np.unique(labels)
        by_class = np.ones(len(classes))
        by_class[present] = compute_class_weight(class_weight, classes=classes[present], y=y, **options)
        weights = weights * by_class[labels]
    if not weights.sum() > 0.0:
        raise no_weight()
    return np.asarray(weights, np.float64)


def check_classes(classes: Any) -> None:
    """ValueError for labels that are all the same."""
    if len(classes) < 2:
        raise ValueError(f"y has one class only, {classes[0]!r}: expected at least two classes")


def no_weight() -> ValueError:
    """What is said of rows none of which counts."""
    return ValueError("the weights of all rows are 0 (sample_weight times class_weight): expected a positive sum")
