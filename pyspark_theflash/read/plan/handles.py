"""Ranges of handles that can satisfy a condition, to skip regions when planning.

Only comparisons of an integer primary key that is the handle restrict the ranges; all other
conditions keep every handle. Unsigned keys are stored as int64 with the same bits: the upper half
sorts before the lower.
"""

import bisect
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import itemgetter
from typing import Final, TypeAlias

from pyspark_theflash.read.pushdown import term as term_module
from pyspark_theflash.read.pushdown.term import Term
from pyspark_theflash.storage.engine.api import Handle
from pyspark_theflash.tidb.expression.syntax import Call, Column, Literal, Node
from pyspark_theflash.tidb.schema.model import TableInfo

Range: TypeAlias = tuple[int, int]
"""Half-open: [first, second)."""

_HALF: Final = 1 << 63
_ALL: Final[Range] = (-_HALF, _HALF)
_ALL_UNSIGNED: Final[Range] = (0, 2 * _HALF)
_MIRRORED: Final = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


class HandleRanges:
    """Ranges that contain the handles of all rows that satisfy some conditions."""

    def __init__(self, conditions: Sequence[Node], table: TableInfo) -> None:
        """Intersect the ranges of the conditions; all handles if they do not restrict them."""
        self._ranges: Sequence[Range] | None = None
        if not conditions or not table.pk_is_handle:
            return
        (key,) = table.handle_columns
        whole = _ALL_UNSIGNED if key.type.is_unsigned else _ALL
        ranges: Sequence[Range] = [whole]
        for condition in conditions:
            ranges = _both(ranges, _ranges(condition, key.name.lower(), whole))
        self._ranges = _as_stored(ranges) if key.type.is_unsigned else ranges
        """In order."""

    def reach(self, start: Handle | None, end: Handle | None) -> bool:
        """Return whether a range overlaps [start, end); None is unbounded."""
        if self._ranges is None or isinstance(start, bytes) or isinstance(end, bytes):
            return True
        low = -_HALF if start is None else start
        high = _HALF if end is None else end
        at = bisect.bisect_right(self._ranges, low, key=itemgetter(1))
        return at < len(self._ranges) and self._ranges[at][0] < high


def node_of(term: Term) -> Node:
    """Convert a filter to a condition's syntax; anything but integers becomes an unknown value."""
    if isinstance(term, term_module.ColumnTerm):
        return Column(term.name.lower())
    if isinstance(term, term_module.LiteralTerm):
        is_integer = term.kind is term_module.LiteralKind.INT and isinstance(term.value, int)
        return Literal(term.value if is_integer else None)
    # A key is never NULL, so `<=>` is the same as `=`.
    name = "=" if term.name == "<=>" else term.name
    return Call(name, tuple(map(node_of, term.arguments)))


def _as_stored(ranges: Iterable[Range]) -> Sequence[Range]:
    """Convert ranges of unsigned values to ranges of signed values with the same bits."""
    lower = [(first, min(last, _HALF)) for first, last in ranges if first < _HALF]
    upper = [(max(first, _HALF), last) for first, last in ranges if last > _HALF]
    return [*((first - 2 * _HALF, last - 2 * _HALF) for first, last in upper), *lower]


def _ranges(node: Node, key: str, whole: Range) -> Sequence[Range]:
    """Return the ranges within `whole` in which `node` can be true."""
    if not isinstance(node, Call):
        return [whole]
    if node.name in ("and", "or"):
        parts = [_ranges(argument, key, whole) for argument in node.arguments]
        if node.name == "or":
            return _merged(each for ranges in parts for each in ranges)
        return reduce(_both, parts)
    return _both([whole], _merged(_compared(node, key, whole)))


def _both(left: Sequence[Range], right: Sequence[Range]) -> Sequence[Range]:
    """Intersect ranges that are in order and do not overlap."""
    result: list[Range] = []
    i = j = 0
    while i < len(left) and j < len(right):
        first, last = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if first < last:
            result.append((first, last))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return result


def _merged(ranges: Iterable[Range]) -> Sequence[Range]:
    """Merge overlapping ranges, so that there are at most as many as literals."""
    result: list[Range] = []
    for first, last in sorted(r for r in ranges if r[0] < r[1]):
        if result and first <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], last))
        else:
            result.append((first, last))
    return result


def _compared(call: Call, key: str, whole: Range) -> Sequence[Range]:
    """Return the ranges of a comparison of the key with integers; otherwise `whole`."""
    name, arguments = call.name, call.arguments
    if name in _MIRRORED and arguments[1] == Column(key):
        name, arguments = _MIRRORED[name], arguments[::-1]
    integers = [_integer(argument) for argument in arguments[1:]]
    values = [value for value in integers if value is not None]
    if arguments[0] != Column(key) or not values or len(values) < len(integers):
        return [whole]
    (low, high), value = whole, values[0]
    if name in ("=", "in"):
        return [(each, each + 1) for each in values]
    if name == "between":
        return [(value, values[1] + 1)]
    bounds = {
        "<": (low, value),
        "<=": (low, value + 1),
        ">": (value + 1, high),
        ">=": (value, high),
    }
    return [bounds.get(name, whole)]


def _integer(node: Node) -> int | None:
    """Return the value of an integer literal."""
    if isinstance(node, Call) and node.name == "negate":
        value = _integer(node.arguments[0])
        return None if value is None else -value
    is_integer = isinstance(node, Literal) and isinstance(node.value, int)
    return node.value if is_integer else None  # type: ignore[union-attr,return-value]
