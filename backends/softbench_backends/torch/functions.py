"""Functions of tensors, in torch's own, to be called or compiled."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

from softbench.interface import IGNORED, INVALID, Reduction, Target

__all__ = ["argmax", "compiled", "log_softmax", "logsumexp", "loss_function", "loss_shape", "softmax"]


def argmax(x: Any) -> Any:
    """The first largest element of each row."""
    import torch

    return torch.argmax(x, 1)


def logsumexp(x: Any) -> Any:
    """Of each row."""
    import torch

    return torch.logsumexp(x, 1)


def softmax(x: Any, out: Any = None) -> Any:
    """Of each row, into ``out`` if there is one."""
    import torch

    return torch.softmax(x, 1, out=out)


def log_softmax(x: Any, out: Any = None) -> Any:
    """Of each row, into ``out`` if there is one."""
    import torch

    return torch.log_softmax(x, 1, out=out)


@functools.cache
def loss_function(
    soft: bool, of_probabilities: bool, smoothing: float, reduction: Reduction, weighted: bool, may_be_invalid: bool
) -> Callable[..., Any]:
    """``loss(x, y, w, s)`` of logits or probabilities, a target, class weights and sample weights."""
    import torch
    from torch.nn import functional

    def row_losses(x: Any, y: Any, w: Any, reduction: str) -> Any:
        if not of_probabilities:
            options = {"weight": w, "ignore_index": IGNORED, "reduction": reduction, "label_smoothing": smoothing}
            return functional.cross_entropy(x, y, **options)
        if not soft:
            return functional.nll_loss(x.log(), y, weight=w, ignore_index=IGNORED, reduction=reduction)
        losses = -torch.xlogy(y if w is None else y * w, x).sum(1)
        return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()

    def plain(x: Any, y: Any, w: Any, s: Any) -> Any:
        return row_losses(x, y, w, reduction)

    def composed(x: Any, y: Any, w: Any, s: Any) -> Any:
        known = y.clamp(min=IGNORED) if may_be_invalid else y
        losses = row_losses(x, known, w, "none")
        if weighted:
            losses = losses * s
        if may_be_invalid:
            losses = torch.where(y == INVALID, float("nan"), losses)
        if reduction == "none":
            return losses
        return losses.sum() if reduction == "sum" else losses.sum() / divisor(y, w, s)

    def divisor(y: Any, w: Any, s: Any) -> Any:
        if soft:
            return s.sum()
        weight = (y != IGNORED).double()  # a row without a class counts as one of weight 1
        if w is not None:
            weight = torch.where(y >= 0, w[y.clamp(min=0)], weight)
        return (weight * s if weighted else weight).sum()

    return composed if weighted or may_be_invalid else plain


@functools.lru_cache(maxsize=256)
def compiled(function: Callable[..., Any], forms: tuple[Any, ...]) -> Callable[..., Any]:
    """``function`` compiled for tensors of these shapes and dtypes.

    torch counts compilations by code object, and after eight of them runs the function eagerly: each gets its own.
    """
    import torch

    assert isinstance(function, types.FunctionType)
    code = function.__code__.replace()
    own = types.FunctionType(code, function.__globals__, None, function.__defaults__, function.__closure__)
    return torch.compile(own, dynamic=False)  # type: ignore[no-any-return]


def loss_shape(target: Target) -> tuple[int, ...]:
    """What a loss is reshaped to: a number per row, or one."""
    return (-1,) if target.reduction == "none" else ()
