"""Softmax regression: the model that the functions of softbench train, as a scikit-learn estimator.

`estimator` is what users meet. `objective` is the function that is minimised, evaluated by a backend's fused linear
loss and gradient; `coordinates` are the parameters in which it is well conditioned; `solvers` minimise it; `result`
says how well they did, with a bound that holds whatever they did.

Needs scikit-learn: ``pip install "softbench[model]"``.
"""

from softbench.regression.estimator import SoftmaxRegression
from softbench.regression.result import FitResult

__all__ = ["FitResult", "SoftmaxRegression"]
