"""The partition of one row, by the definitions in MySQL's manual.

Values are Python's; NULL is None.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MAXVALUE = object()
DEFAULT = object()


def range_place(row: Sequence[Any], bounds: Sequence[Sequence[Any]]) -> int | None:
    """The first partition of which the bound lies above the row; None for none."""
    for place, bound in enumerate(bounds):
        if _is_below(row, bound):
            return place
    return None


def _is_below(row: Sequence[Any], bound: Sequence[Any]) -> bool:
    for value, limit in zip(row, bound, strict=True):
        if limit is MAXVALUE or value is None or value < limit:
            return True
        if value > limit:
            return False
    return False


def list_place(row: tuple[Any, ...], places: Mapping[Any, int]) -> int | None:
    """The partition that names the row's values, else the DEFAULT one; None for none."""
    return places.get(row, places.get(DEFAULT))
