"""JSON that every reader takes, and that people can look at."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

__all__ = ["json_text"]

_NUMBERS: Final = re.compile(r"\[[\s\d.eE+,-]*\]")


def json_text(value: Any) -> str:
    """Indented JSON with lists of nothing but numbers on one line: samples are most of a record."""
    text = json.dumps(_plain(value), indent=1)
    return _NUMBERS.sub(lambda found: "[" + " ".join(found[0][1:-1].split()) + "]", text) + "\n"


def _plain(value: Any) -> Any:
    """JSON without NaN, Infinity and lone surrogates, which other readers refuse: those become strings, and escapes."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return _plain(value.item()) if hasattr(value, "item") else str(value)
