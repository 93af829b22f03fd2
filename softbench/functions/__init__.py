"""A backend from one function: what ``softbench check --as OP module:function`` judges, and ``softbench run`` can race.

Most authors of a kernel have one function, not eight methods. It takes and returns 2-d arrays of NumPy, PyTorch, JAX or
CuPy; which of them, and which dtypes, forms of targets and options, is found out by asking it.

>>> import numpy as np
>>> from softbench.functions import backend_of
>>> def softmax(x):
...     e = np.exp(x - x.max(axis=1, keepdims=True))
...     return e / e.sum(axis=1, keepdims=True)
>>> be = backend_of(softmax, "softmax")
>>> be.softmax([0.0, 0.0])
array([0.5, 0.5])
"""

from softbench.functions.backend import FunctionBackend, backend_of
from softbench.functions.libraries import LIBRARIES

__all__ = ["LIBRARIES", "FunctionBackend", "backend_of"]
