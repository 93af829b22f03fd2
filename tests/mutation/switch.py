"""What a mutated module imports in place of mutmut's trampoline: functions whose body can be switched.

A mutated function costs one call more than the right one, so that every case of the kit can be run on every mutant.
"""

from __future__ import annotations

import functools

MutantDict = dict
SWITCHES: dict[str, Switch] = {}
"""By module and mutmut's name of the function, ``softbench.front.options.x_check_axis``."""


class Switch:
    """One function: which body runs, and whether any did since `reached` was set to False."""

    def __init__(self, bodies: dict) -> None:
        self.bodies = bodies
        self.reached = False
        self.body = self._first

    def _first(self, *args, **kwargs):
        self.reached = True
        return self.bodies["_mutmut_orig"](*args, **kwargs)

    def choose(self, name: str) -> None:
        """Let a mutant run from now on."""
        self.body = self.bodies[name]


def wrap_in_trampoline(bodies: dict, is_classmethod: bool = False):
    """The decorator of every mutated function; ``bodies`` is filled with it and its mutants later."""
    if is_classmethod:
        raise NotImplementedError("a class method among the mutated functions")
    switch = Switch(bodies)

    def decorate(function):
        SWITCHES[f"{function.__module__}.{_mangled(function)}"] = switch

        @functools.wraps(function)
        def call(*args, **kwargs):
            return switch.body(*args, **kwargs)

        return call

    return decorate


def _mangled(function) -> str:
    owner, _, name = function.__qualname__.rpartition(".")
    return f"xǁ{owner}ǁ{name}" if owner else f"x_{name}"
