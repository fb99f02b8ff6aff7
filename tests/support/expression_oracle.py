"""Integer expressions as trees of Python, evaluated a row at a time by the rules of MySQL's manual.

A tree is a column's name, an int, None, or a tuple of an operator and its operands. `evaluate`
returns the value for one row, `sql` the text of the tree.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Tree: TypeAlias = Any
Row: TypeAlias = Mapping[str, int | None]


class Overflow(Exception):
    """A value outside the range of BIGINT."""


def _truncated(dividend: int, divisor: int) -> int:
    quotient = abs(dividend) // abs(divisor)
    return quotient if (dividend < 0) == (divisor < 0) else -quotient


ARITHMETIC: dict[str, Callable[[int, int], int | None]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "DIV": lambda a, b: _truncated(a, b) if b else None,
    "%": lambda a, b: a - b * _truncated(a, b) if b else None,
}
COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "=": lambda a, b: a == b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def evaluate(tree: Tree, row: Row) -> int | None:
    """The tree's value for one row.

    Raises:
        Overflow: An intermediate result is not a BIGINT.
    """
    if isinstance(tree, str):
        return row[tree]
    if not isinstance(tree, tuple):
        return tree  # type: ignore[no-any-return]
    name, *operands = tree
    if name == "IF":
        return evaluate(operands[1 if evaluate(operands[0], row) else 2], row)
    if name == "IFNULL":
        first = evaluate(operands[0], row)
        return evaluate(operands[1], row) if first is None else first
    values = [evaluate(operand, row) for operand in operands]
    result = _apply(name, values)
    if result is not None and not -(2**63) <= result < 2**63:
        raise Overflow
    return result


def _apply(name: str, values: list[int | None]) -> int | None:
    if name == "IS NULL":
        return int(values[0] is None)
    if name == "<=>":
        return int(values[0] == values[1])
    if name == "AND":
        return _and(values)
    if name == "OR":
        negated = _and([None if v is None else int(not v) for v in values])
        return None if negated is None else int(not negated)
    present = [v for v in values if v is not None]
    if len(present) < len(values):
        return None
    if name == "NOT":
        return int(not present[0])
    if name == "-" and len(present) == 1:
        return -present[0]
    if name in ARITHMETIC:
        return ARITHMETIC[name](*present)
    return int(COMPARISONS[name](*present))


def _and(values: list[int | None]) -> int | None:
    if any(v == 0 for v in values):
        return 0
    return None if any(v is None for v in values) else 1


def sql(tree: Tree) -> str:
    """The tree as text, every operation in parentheses."""
    if isinstance(tree, str):
        return f"`{tree}`"
    if not isinstance(tree, tuple):
        return "NULL" if tree is None else str(tree)
    name, *operands = tree
    texts = [sql(operand) for operand in operands]
    if name in ("IF", "IFNULL"):
        return f"{name}({', '.join(texts)})"
    if name == "IS NULL":
        return f"({texts[0]} IS NULL)"
    return f"({texts[0]} {name} {texts[1]})" if len(texts) > 1 else f"({name} {texts[0]})"
