"""Sequences of calls, searched by hypothesis: what a call leaves behind for the next one.

The machine calls any function on a few arrays, changes these in place, replaces them (so that an address or an ``id``
comes back with other contents), puts NaN in and takes it out again, holds results and looks at them again, and has
results written over earlier ones. Whatever has gone before, a result is what the oracle says of the arguments as they
are. The search is the same every time; a failure is shown with the shortest sequence that leads to it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import VIEWS, Batch, View, batch
from softbench.conformance.case import Requirement, check
from softbench.conformance.failures import Failure, mismatch

__all__ = ["REQUIREMENTS"]

Array = np.ndarray[Any, Any]

_EXAMPLES: Final = {"quick": 6, "standard": 60, "deep": 1500}
_STEPS: Final = 24
_SHAPES: Final = {
    "compiled": ((4, 6, "float32"), (3, 70, "float64"), (4, 6, "float32"), (40, 5, "float64")),
    "interpreted": ((4, 6, "float32"), (3, 5, "float64")),
    "simulated": ((2, 5, "float32"),),
}
_PARTS: Final = ("x", "p", "labels", "q", "s", "w")


class _Calls:
    """One sequence: the arrays, the results that are held, and what has been done."""

    def __init__(self, backend: BackendUnderTest, failures: list[str]) -> None:
        self.backend = backend
        self.failures = failures
        self.arrays = [batch(n, k, dtype, seed=i) for i, (n, k, dtype) in enumerate(_SHAPES[backend.cost])]
        self.held: list[tuple[str, Array, Array]] = []
        self.log: list[str] = []

    def call(self, view: View, which: int) -> None:
        """A call, judged; its result is held."""
        which %= len(self.arrays)
        self._judge(view, which, view.run(self.backend, self.arrays[which]), f"{view.name}(a{which})")

    def call_into(self, view: View, which: int, place: int) -> None:
        """A call whose result is written over one that is held, or over the logits."""
        which %= len(self.arrays)
        rows = self.arrays[which]
        fitting = [
            i for i, (_, held, _) in enumerate(self.held) if held.shape == rows.x.shape and held.dtype == rows.x.dtype
        ]
        if not fitting:
            return self.call(view, which)
        place = fitting[place % len(fitting)]
        text, out, _ = self.held.pop(place)
        logits, target, options = view.arguments(rows)
        arguments = [logits] + ([] if target is None else [target])
        result = self.backend.call(view.op, *arguments, **options, out=out)
        self._judge(view, which, result, f"{view.name}(a{which}, out=the result of {text})")
        return None

    def change(self, which: int, part: str, how: str) -> None:
        """Change an array in place."""
        which %= len(self.arrays)
        array = getattr(self.arrays[which], part)
        if how == "NaN" and part == "x":
            array[len(array) // 2, array.shape[1] // 2] = np.nan
        elif how == "infinity" and part == "x":
            array[0, 1], array[-1] = np.inf, -np.inf
        elif how == "exchange":
            middle = array[1:-1]
            middle[...] = middle[::-1].copy()
        else:
            n, k = self.arrays[which].x.shape
            array[...] = getattr(batch(n, k, self.arrays[which].x.dtype.name, 5.0, seed=len(self.log)), part)
        self.log.append(f"a{which}.{part}: {how}")

    def replace(self, which: int, seed: int) -> None:
        """New arrays in place of old ones, which are thrown away."""
        which %= len(self.arrays)
        n, k = self.arrays[which].x.shape
        dtype = self.arrays[which].x.dtype.name
        self.arrays[which] = Batch(*(np.empty(0) for _ in range(6)))
        self.arrays[which] = batch(n, k, dtype, seed=seed)
        self.log.append(f"a{which} = new arrays")

    def drop(self) -> None:
        """Throw away every other result."""
        self.look()
        del self.held[::2]
        self.log.append("every other result thrown away")

    def look(self) -> None:
        """Held results are as they were."""
        with self._kept():
            for text, result, kept in self.held:
                mismatch(result, kept, f"{self._before()}the result of {text}, held since,", than=" as it was")

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except Failure as failure:
            self.failures.append(str(failure))
            raise

    def _before(self) -> str:
        return f"after {'; '.join(self.log)}: " if self.log else ""

    def _judge(self, view: View, which: int, result: Array, text: str) -> None:
        logits, target, options = view.arguments(self.arrays[which])
        said = f"{self._before()}{text}, a{which} of {logits.dtype.name} {logits.shape}"
        with self._kept():
            if view.op == "argmax":
                nan = np.isnan(logits)
                mismatch(result, np.where(nan.any(axis=1), nan.argmax(axis=1), logits.argmax(axis=1)), said)
            else:
                self.backend.judge(view.op, result, logits, target, said=said, **options)
        self.held.append((text, result, np.array(result)))
        self.log.append(text)


def _searched(backend: BackendUnderTest) -> None:
    """Sequences of calls and changes: each result is that of its arguments, and stays."""
    from hypothesis import HealthCheck, Phase, settings
    from hypothesis import strategies as st
    from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

    views = [view for view in VIEWS if view.op in backend.provided(*{view.op for view in VIEWS})]
    numbers = st.integers(0, 5)

    failures: list[str] = []

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.calls = _Calls(backend, failures)

        @rule(view=st.sampled_from(views), which=numbers)
        def call(self, view: View, which: int) -> None:
            self.calls.call(view, which)

        @rule(view=st.sampled_from(views), which=numbers, part=st.sampled_from(_PARTS), how=st.sampled_from(_CHANGES))
        def change_and_call(self, view: View, which: int, part: str, how: str) -> None:
            self.calls.change(which, part, how)
            self.calls.call(view, which)

        @rule(which=numbers, seed=numbers)
        def replace(self, which: int, seed: int) -> None:
            self.calls.replace(which, seed)

        @rule()
        def drop(self) -> None:
            self.calls.drop()

        if any(view.maps for view in views):

            @rule(view=st.sampled_from([view for view in views if view.maps]), which=numbers, place=numbers)
            def call_into(self, view: View, which: int, place: int) -> None:
                self.calls.call_into(view, which, place)

        def teardown(self) -> None:
            self.calls.look()

    chosen = settings(
        max_examples=_EXAMPLES[backend.profile],
        stateful_step_count=_STEPS,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(Machine, settings=chosen)
    except Exception:
        if not failures:
            raise
        # The shortest one met. What hypothesis says, of a failure that does not come again too, is about its machine.
        raise Failure(min(failures, key=len)) from None


_CHANGES: Final = ("other values", "exchange", "NaN", "infinity")

REQUIREMENTS = (
    Requirement(
        "sequences",
        "calls one after the other, arrays changed in place or replaced in between, results held and written over",
        "each result is that of its arguments as they are, and stays",
        checks=check("sequences", _searched, name="searched", needs=("host", "hypothesis")),
    ),
)
