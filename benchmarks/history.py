"""Time per call, by the public functions alone.

The other benchmarks take their cases from modules of softbench, which move. This one runs on every commit since the
first vectorised kernels, and ``history.txt`` names some, spread over the time since then;
``history-peers.txt`` some of those that have other people's libraries as backends::

    asv run --machine NAME --bench history.Calls HASHFILE:benchmarks/history.txt
    asv run --machine NAME --config asv.peers.conf.json --bench history.Calls HASHFILE:benchmarks/history-peers.txt
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("NUMBA_CACHE_DIR", os.path.join(sys.prefix, "numba-cache"))

import numpy as np

import softbench

# Fixed, whatever is installed and whatever a commit knows: `softbench.built_in.RESERVED`, which a test holds it to.
BACKENDS = [
    "python", "numpy", "numba", "numba_cuda", "cupy", "torch", "torch_cuda", "jax", "scipy", "onnxruntime", "sklearn",
    "array_api", "dask",
]  # fmt: skip

# Named as in `softbench.measure.workloads`, which says why each is there.
CASES = {
    "softmax-1x10-f32": ("softmax", (1, 10), "float32"),
    "softmax-60000x10-f32": ("softmax", (60_000, 10), "float32"),
    "softmax-4096x1000-f32": ("softmax", (4096, 1000), "float32"),
    "softmax-4096x1000-f64": ("softmax", (4096, 1000), "float64"),
    "loss_and_gradient-4096x1000-f32": ("loss_and_gradient", (4096, 1000), "float32"),
}

SCALE = 4.0  # standard deviation of logits
INTERPRETED = 50_000  # logits that a backend in pure Python is given at the most


class Calls:
    """Seconds per call, compiled and warm, results in new arrays."""

    params = (BACKENDS, list(CASES))
    param_names = ("backend", "case")
    rounds = 1
    repeat = (5, 15, 1.5)
    sample_time = 0.02
    warmup_time = 0.2

    def setup(self, name, case):
        op, (n, k), dtype = CASES[case]
        if name == "python" and n * k > INTERPRETED:
            raise NotImplementedError(f"python on {case}: interpreted")
        try:
            backend = softbench.get_backend(name)
        except (ImportError, ValueError) as error:  # it cannot run here, or the commit does not know it
            raise NotImplementedError(str(error)) from None
        rng = np.random.default_rng(0)
        x = backend.asarray((SCALE * rng.standard_normal((n, k))).astype(dtype))
        arguments = (x,) if op == "softmax" else (x, backend.asarray(rng.integers(0, k, n)))
        function, synchronize = getattr(backend, op), backend.synchronize

        def call():
            function(*arguments)
            synchronize()

        self.call = call
        call()

    def time_call(self, name, case):
        self.call()
