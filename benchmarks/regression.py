"""Softmax regression: one evaluation of its objective, and whole fits, per backend."""

from __future__ import annotations

import warnings

from benchmarks.common import BACKENDS, find
from softbench.measure.fits.data import DATA

ROWS = 20_000
"""Rows of a case at the most: the studies measure whole data sets."""


class Regression:
    """One backend on a part of a data set of the studies."""

    def setup(self, name, data):
        self.backend = find(name)
        rows = self.backend.rows
        if self.backend.availability().kind != "cpu" or rows.cost != "compiled" or rows.native_loss:
            raise NotImplementedError(f"{name}: linear logits are timed on compiled CPU backends")
        n, p, k = DATA[data].shape
        self.X, self.y = DATA[data]._replace(shape=(min(n, ROWS), p, k)).arrays()
        self.k = k


class Evaluation(Regression):
    """Seconds per fused loss and gradient, compiled and warm."""

    params = (BACKENDS, ["mnist", "text"])
    param_names = ("backend", "data")
    rounds = 1
    repeat = (5, 15, 3.0)
    warmup_time = 0.1

    def setup(self, name, data):
        super().setup(name, data)
        import numpy as np

        self.coef = np.zeros((self.k, self.X.shape[1]), self.X.dtype)
        self.time_linear_loss_and_gradient(name, data)

    def time_linear_loss_and_gradient(self, name, data):
        self.backend.linear_loss_and_gradient(self.X, self.coef, None, self.y)


class Fit(Regression):
    """Seconds of a fit with default settings, and the most memory of a process that makes one."""

    params = (BACKENDS, ["digits", "mnist"])
    param_names = ("backend", "data")
    rounds = 1
    repeat = (2, 5, 10.0)
    number = 1
    timeout = 120

    def time_fit(self, name, data):
        self._fit()

    def peakmem_fit(self, name, data):
        self._fit()

    def _fit(self):
        import softbench

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            softbench.SoftmaxRegression(backend=self.backend).fit(self.X, self.y)
