"""The partition of one row, by the definitions in MySQL's manual.

Values are Python's; NULL is None.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MAXVALUE = object()
DEFAULT = object()


def range_place(row: Sequence[Any], bounds: Sequence[Sequence[Any]]) -> int | None:
    """Return the first partition whose bound is above the row; None if there is none."""
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
    """Return the partition with the row's values, else the DEFAULT one; None if there is none."""
    return places.get(row, places.get(DEFAULT))
