"""Tables that fit: where there is no room, the least important columns go first, and the answer last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

__all__ = ["Column", "fitted"]

_GAP: Final = 2
_FOLDED: Final = 30  # cells that a column which folds should have


class Column(NamedTuple):
    """A column of a table, with its cells."""

    heading: str
    cells: list[Text]
    rank: int = 0
    """Columns of the highest rank go first where there is no room; those of rank 0 stay."""
    right: bool = False
    folds: bool = False
    """Whether long cells continue on the next line."""

    @property
    def width(self) -> int:
        """Of the widest cell, in terminal cells."""
        return max([cell_len(self.heading), *(cell_len(cell.plain) for cell in self.cells)])


def fitted(title: str, columns: Sequence[Column], width: int) -> Table:
    """A table of those columns that there is room for."""
    kept = list(columns)
    for rank in sorted({column.rank for column in columns if column.rank}, reverse=True):
        if sum(min(c.width, _FOLDED) if c.folds else c.width for c in kept) + _GAP * (len(kept) - 1) <= width:
            break
        kept = [column for column in kept if column.rank != rank]
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, _GAP, 0, 0), pad_edge=False
    )
    for column in kept:
        table.add_column(
            column.heading,
            justify="right" if column.right else "left",
            no_wrap=not column.folds,
            overflow="fold" if column.folds else "ellipsis",
            min_width=column.width if not column.rank and not column.folds and column is kept[0] else None,
        )
    for row in zip(*(column.cells for column in kept), strict=True):
        table.add_row(*row)
    return table
