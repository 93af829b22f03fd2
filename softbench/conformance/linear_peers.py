"""docs/peers-linear.md: linear logits of other people's libraries, by the rows of the kit.

``python -m softbench.conformance.linear_peers`` judges those that are installed, and writes docs/peers-linear.json and
docs/peers-linear.md. A library's answers come from what it offers for a loss and its gradients from features; options
that it lacks are not asked of it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from softbench.accuracy.gates import GATES
from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.case import Case, is_installed
from softbench.conformance.failures import Failure, NotApplicable
from softbench.conformance.linear_logits import REQUIREMENTS, SUM_GATE, largest_errors
from softbench.errors import NotProvidedError

__all__ = ["FORMS", "PAGE", "VERDICTS", "judge", "render"]

_DOCS: Final = Path(__file__).parents[2] / "docs"
PAGE: Final = _DOCS / "peers-linear.md"
VERDICTS: Final = _DOCS / "peers-linear.json"

_EXAMPLE: Final = 230  # characters of a message
Array = np.ndarray[Any, Any]


class Torch:
    """PyTorch: a product of matrices, `cross_entropy`, and autograd."""

    name = "torch composed"
    module = "torch"
    what = "`linear`, `cross_entropy`, `backward`"

    def __init__(self) -> None:
        self.torch = importlib.import_module("torch")
        self.functional = self.torch.nn.functional

    def linear_argmax(self, X: Any, coef: Array, intercept: Array) -> Array:
        """The largest logit."""
        return np.asarray(self._logits(X, coef, intercept).argmax(dim=1))

    def linear_softmax(self, X: Any, coef: Array, intercept: Array) -> Array:
        """Of the logits."""
        return np.asarray(self.functional.softmax(self._logits(X, coef, intercept), dim=1))

    def linear_loss(self, X: Any, coef: Array, intercept: Array, target: Array, **options: Any) -> Any:
        """Row by row, or reduced; as float64 where it is reduced."""
        loss = self._loss(*self._tensors(X, coef, intercept, target), **options).numpy()
        return loss if loss.ndim else np.float64(loss)

    def linear_loss_and_gradient(
        self, X: Any, coef: Array, intercept: Array, target: Array, **options: Any
    ) -> tuple[Any, Array, Array]:
        """The loss, and what `backward` leaves."""
        x, w, b, t = self._tensors(X, coef, intercept, target)
        w.requires_grad_()
        b.requires_grad_()
        loss = self._loss(x, w, b, t, **options)
        loss.backward()
        return np.float64(loss.detach()), w.grad.numpy(), b.grad.numpy()

    def _logits(self, X: Any, coef: Array, intercept: Array) -> Any:
        return self.functional.linear(*(self._tensor(part) for part in (X, coef, intercept)))

    def _tensor(self, array: Any) -> Any:
        if not isinstance(array, np.ndarray):
            raise NotProvidedError(f"{self.name} takes dense features")
        return self.torch.from_numpy(np.array(array, order="C"))

    def _tensors(self, X: Any, coef: Array, intercept: Array, target: Array) -> tuple[Any, ...]:
        t = self._tensor(target)
        return *(self._tensor(part) for part in (X, coef, intercept)), t.to(
            self._tensor(coef).dtype
        ) if t.ndim == 2 else t

    def _given(self, like: Any, class_weight: Any, ignore_index: int | None) -> dict[str, Any]:
        weight = None if class_weight is None else self._tensor(class_weight).to(like.dtype)
        return {"weight": weight} | ({} if ignore_index is None else {"ignore_index": ignore_index})

    def _loss(
        self, x: Any, w: Any, b: Any, t: Any, sample_weight: Any = None, reduction: str = "mean",
        class_weight: Any = None, ignore_index: int | None = None, label_smoothing: float = 0.0,
    ) -> Any:  # fmt: skip
        given = self._given(w, class_weight, ignore_index)
        logits = self.functional.linear(x, w, b)
        if sample_weight is None:
            return self.functional.cross_entropy(
                logits, t, **given, label_smoothing=label_smoothing, reduction=reduction
            )
        s = self._tensor(sample_weight).to(w.dtype)
        losses = s * self.functional.cross_entropy(
            logits, t, **given, label_smoothing=label_smoothing, reduction="none"
        )
        if reduction != "mean":
            return losses if reduction == "none" else losses.sum()
        if t.ndim == 1:
            s = (s * given["weight"][t] if class_weight is not None else s)[t != given.get("ignore_index", -100)]
        return losses.sum() / s.sum()


class TorchFused(Torch):
    """PyTorch's `linear_cross_entropy`, in chunks."""

    name = "torch linear_cross_entropy"
    what = "`linear_cross_entropy` with `LinearCrossEntropyOptions()`, `backward`"

    def _loss(
        self, x: Any, w: Any, b: Any, t: Any, sample_weight: Any = None, reduction: str = "mean",
        class_weight: Any = None, ignore_index: int | None = None, label_smoothing: float = 0.0,
    ) -> Any:  # fmt: skip
        if sample_weight is not None:
            raise NotProvidedError(f"{self.name} has no weights of rows")
        return self.functional.linear_cross_entropy(
            x, w, t, linear_bias=b, **self._given(w, class_weight, ignore_index), label_smoothing=label_smoothing,
            reduction=reduction, options=self.torch.nn.LinearCrossEntropyOptions(),
        )  # fmt: skip


class Sklearn:
    """The objective that scikit-learn's LogisticRegression minimises."""

    name = "scikit-learn"
    module = "sklearn"
    what = "`LinearModelLoss(HalfMultinomialLoss)`, which is not public"
    least_classes = 3  # two are another loss there

    def linear_softmax(self, X: Any, coef: Array, intercept: Array) -> Array:
        """`predict_proba` of the loss."""
        loss, packed = self._model(X, coef, intercept)
        return np.asarray(loss.base_loss.predict_proba(loss.weight_intercept_raw(packed, X)[2]))

    def linear_argmax(self, X: Any, coef: Array, intercept: Array) -> Array:
        """The largest logit."""
        loss, packed = self._model(X, coef, intercept)
        return np.asarray(loss.weight_intercept_raw(packed, X)[2].argmax(axis=1))

    def linear_loss(self, X: Any, coef: Array, intercept: Array, target: Array, **options: Any) -> Any:
        """Row by row, or the mean."""
        loss, packed = self._model(X, coef, intercept)
        reduction = options.pop("reduction", "mean")
        y, weight = self._rows(coef, target, options)
        if reduction == "none":
            raw = loss.weight_intercept_raw(packed, X)[2]
            return np.asarray(loss.base_loss.loss(y, raw, sample_weight=weight))
        if reduction == "sum":
            raise NotProvidedError("it has the mean")
        return np.float64(loss.loss(packed, X, y, sample_weight=weight))

    def linear_loss_and_gradient(
        self, X: Any, coef: Array, intercept: Array, target: Array, **options: Any
    ) -> tuple[Any, Array, Array]:
        """Of the mean."""
        if options.pop("reduction", "mean") != "mean":
            raise NotProvidedError("it has the mean")
        loss, packed = self._model(X, coef, intercept)
        y, weight = self._rows(coef, target, options)
        value, gradient = loss.loss_gradient(packed, X, y, sample_weight=weight)
        gradient = gradient.reshape(len(coef), -1, order="F")
        return np.float64(value), np.ascontiguousarray(gradient[:, :-1]), gradient[:, -1].copy()

    def _model(self, X: Any, coef: Array, intercept: Array) -> tuple[Any, Array]:
        losses = importlib.import_module("sklearn._loss")
        module = importlib.import_module("sklearn.linear_model._linear_loss")
        if len(coef) < self.least_classes:
            raise NotApplicable("it has another loss for two classes")
        loss = module.LinearModelLoss(losses.HalfMultinomialLoss(n_classes=len(coef)), fit_intercept=True)
        return loss, np.column_stack([coef, intercept]).astype(coef.dtype).reshape(-1, order="F")

    def _rows(self, coef: Array, target: Array, options: dict[str, Any]) -> tuple[Array, Array | None]:
        """Labels as it takes them, and the weight of each row."""
        class_weight, weight = options.pop("class_weight", None), options.pop("sample_weight", None)
        if options or target.ndim == 2:
            raise NotProvidedError(f"it has no {', '.join(options) or 'soft targets'}")
        if class_weight is not None:
            weight = class_weight[target] * (1.0 if weight is None else weight)
        return target.astype(coef.dtype), None if weight is None else weight.astype(coef.dtype)


FORMS: Final[tuple[Callable[[], Any], ...]] = (Torch, TorchFused, Sklearn)
"""Who is judged."""


def judge(form: Any) -> dict[str, Any]:
    """The verdict on an object with some of the functions of linear logits, as plain data."""
    backend = BackendUnderTest(form, profile="deep")
    found: dict[str, Any] = {"cases": {}, "errors": {}}
    for requirement in REQUIREMENTS:
        for case in requirement.checks:
            found["cases"][case.id] = _verdict(backend, case)
    for (gate, dtype), worst in backend.worst.items():
        found["errors"][f"{gate} {dtype}"] = worst.max
    for dtype in ("float32", "float64"):
        for name, error in largest_errors(backend, dtype).items():
            found["errors"][f"gradient of {name} {dtype}"] = error
    return found


def _verdict(backend: BackendUnderTest, case: Case) -> str:
    """Empty where a case passes, "-" where it cannot be asked, else what is wrong."""
    if any(need != "host" and not is_installed(need) for need in case.needs):
        return "-"
    backend.case = case.id
    try:
        case.check(backend)
    except (NotApplicable, NotProvidedError):
        return "-"
    except Failure as failure:
        return str(failure)[:_EXAMPLE]
    except Exception as error:  # of a library
        return f"{type(error).__name__}: {error}"[:_EXAMPLE]
    return ""


_HEAD: Final = f"""<!-- Written by `python -m softbench.conformance.linear_peers`; do not edit. -->
# Linear logits of other libraries

Loss and gradients of softmax regression straight from features, as PyTorch and scikit-learn compute them, held against
the rows `linear-*` of [the contract](semantics.md), which softbench's backends keep. The features of these cases are
such that every logit is exact: what is off is off behind the logits. Gradients are sums over rows; their error is
counted in the unit `u sum_i abs(g_ik x_ij)`, of which {SUM_GATE:g} pass. What a library has no option for is not asked.
"""


def render(verdicts: Mapping[str, Any]) -> str:
    """The page that says what is in the JSON file."""
    judged = verdicts["peers"]
    names = list(judged)
    parts = [_HEAD, "\n"]
    for name, entry in judged.items():
        answers = [verdict for verdict in entry["cases"].values() if verdict != "-"]
        counts = f"{answers.count('')} of the {len(answers)} cases asked pass"
        parts.append(f"* {name} ({entry['version']}): {entry['what']}; {counts}.\n")
    parts.append(
        "\n## Largest errors\n\n| quantity | gate | " + " | ".join(names) + " |\n|---|---" + "|---" * len(names)
    )
    parts.append("|\n")
    keys = dict.fromkeys(key for entry in judged.values() for key in entry["errors"])
    for key in keys:
        quantity, _, dtype = key.rpartition(" ")
        gate = SUM_GATE if quantity.startswith("gradient of") else GATES[quantity].bounds[dtype]
        cells = [_number(entry["errors"].get(key)) for entry in judged.values()]
        parts.append(f"| {quantity}, {dtype} | {gate:g} | {' | '.join(cells)} |\n")
    parts.append("\n## What differs\n\n| library | row | of the cases asked fail | an example |\n|---|---|---|---|\n")
    for name, entry in judged.items():
        for requirement in REQUIREMENTS:
            found = [entry["cases"][case.id] for case in requirement.checks]
            wrong = [message for message in found if message not in ("", "-")]
            if wrong:
                text = " ".join(wrong[0].replace("|", "\\|").split())
                asked = len(found) - found.count("-")
                parts.append(f"| {name} | {requirement.case} | {len(wrong)} of {asked} | {text} |\n")
    return "".join(parts)


def _number(error: float | None) -> str:
    return "" if error is None else f"{error:.3g}"


def main(arguments: list[str] | None = None) -> int:
    """Judge what is installed, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m softbench.conformance.linear_peers", description=__doc__)
    parser.parse_args(arguments)
    verdicts: dict[str, Any] = {"peers": {}}
    if VERDICTS.exists():
        verdicts = json.loads(VERDICTS.read_text(encoding="utf-8"))
    for make in FORMS:
        kind: Any = make
        if not is_installed(kind.module):
            print(f"{kind.name} is left as it is: {kind.module} is not installed")
            continue
        version = f"{kind.module} {importlib.import_module(kind.module).__version__.partition('+')[0]}"
        verdicts["peers"][kind.name] = {"version": version, "what": kind.what, **judge(make())}
    VERDICTS.write_text(json.dumps(verdicts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(render(verdicts), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
