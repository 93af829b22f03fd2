"""PyTorch on the CPU: softmax, log_softmax, logsumexp, cross_entropy and its autograd."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from softbench.interface import IndexTarget, Target
from softbench_peers.composed import ComposedBackend, select


class TorchBackend(ComposedBackend):
    """PyTorch on rows; arrays are shared with NumPy, not copied."""

    name = "torch"
    requires = ("torch",)
    install = "pip install torch"
    dtypes = frozenset({"float16", "float32", "float64"})

    deviations: ClassVar = {
        "absent-classes": "log p of the class that is left beside absent ones loses digits; see accuracy-log-softmax",
        "one-class": "the gradient of one class is -0",
        "subnormal": "probabilities of the rounded shift are off by several spacings",
        "wide-accumulator": "float16 logsumexp, log_softmax and loss of 70000 equal logits are infinite or far off",
        "accuracy-softmax": "the shift x - max is rounded",
        "accuracy-log-softmax": "log(sum) instead of log1p (https://github.com/pytorch/pytorch/issues/113708)",
        "accuracy-logsumexp": "log(sum) instead of log1p, which shows where lse is near 0",
        "accuracy-loss": "as log_softmax (https://github.com/pytorch/pytorch/issues/113708)",
        "accuracy-gradient": "p_y - 1 cancels where p_y is near 1",
        "accuracy-weighted": "as accuracy-loss and accuracy-gradient",
        "accuracy-soft": "as accuracy-softmax and accuracy-log-softmax",
        "label-smoothing": "as accuracy-soft, in half precision",
        "symmetries": "a permutation changes results by more than the gates leave",
        "bounds": "gradient rows do not sum to 0 within the gates of their entries; a loss of -0",
        "every-index": "as accuracy-log-softmax",
        "every-k": "as accuracy-log-softmax, accuracy-softmax",
        "every-n": "as accuracy-softmax",
        "equivalent-calls": (
            "a label and its one-hot distribution differ by more than the gates leave, in half precision"
        ),
        "long-rows": "as accuracy-softmax, accuracy-log-softmax",
        "concurrency": "a forked child hangs once the parent has used its threads (https://github.com/pytorch/pytorch/issues/17199)",
    }

    def info(self) -> dict[str, object]:
        """Version and threads."""
        import torch

        return {"device": "cpu", "threads": torch.get_num_threads(), "torch": torch.__version__}

    def softmax(self, x: Any, out: Any) -> Any:
        """`torch.softmax`."""
        import torch

        return torch.softmax(_tensor(x), 1).numpy()

    def log_softmax(self, x: Any, out: Any) -> Any:
        """`torch.log_softmax`."""
        import torch

        return torch.log_softmax(_tensor(x), 1).numpy()

    def logsumexp(self, x: Any, out: Any) -> Any:
        """`torch.logsumexp`."""
        import torch

        return torch.logsumexp(_tensor(x), 1).numpy()

    def loss_and_gradient(self, x: Any, target: Target, divisor: Any, loss: Any, out: Any) -> tuple[Any, Any]:
        """`torch.nn.functional.cross_entropy` and its backward pass, for plain class indices; else composed."""
        import torch

        if not isinstance(target, IndexTarget) or target.class_weight is not None or target.sample_weight is not None:
            return super().loss_and_gradient(x, target, divisor, loss, out)
        logits = _tensor(x).requires_grad_(True)
        labels = _tensor(np.maximum(target.labels, 0))
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=target.smoothing)
        (losses.sum() if divisor == 1 else losses.sum() / (divisor or float("nan"))).backward()
        row_losses = losses.detach().numpy().astype(np.float64)
        return select(target, row_losses), select(target, logits.grad.numpy())


def _tensor(array: Any) -> Any:
    import torch

    return torch.from_numpy(array if array.flags.writeable else array.copy())
