"""How much of the kit to run."""

from __future__ import annotations

from typing import Final, Literal, get_args

__all__ = ["PROFILES", "Profile"]

Profile = Literal["quick", "standard", "deep"]
"""Seconds, well below a minute, minutes."""

PROFILES: Final[tuple[Profile, ...]] = get_args(Profile)
