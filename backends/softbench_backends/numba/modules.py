"""The modules of this package that import Numba, each loaded when first needed."""

from __future__ import annotations

import importlib
from typing import Any, Final

from softbench.interface.first_use import FirstUse

__all__ = ["loaded"]


def _module(name: str) -> Any:
    return importlib.import_module(f"{__package__}.{name}")


loaded: Final = FirstUse(_module)
"""A module of this package by name."""
