"""Memory of an evaluation: rows are evaluated in slices, which are halved if they need too much.

    in_slices(rows, budget, where, evaluate)
        evaluate(start, count)     the values that it makes are reserved, large ones in advance
            reserve(size)          TooLargeError -> the same rows again, in smaller slices

Reserved memory is released at the end of the slice only, so the sum also bounds the time between
two checks of the budget. A single row may use all memory of the budget.
"""

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.budget import DEFAULT_BUDGET, Budget
from pyspark_theflash.base.errors import UnsupportedError

SLICE_ROWS: Final = 1 << 16
_TEXT: Final = 24
"""The offsets of a string, besides its bytes."""
_ROUGH_PARTS: Final = 16
"""A rough estimate is enough if that many of its size are allowed."""
_Result = TypeVar("_Result")


class TooLargeError(Exception):
    """The values of a slice of rows need more memory than allowed."""


class _Allowance:
    __slots__ = ("budget", "left_bytes")

    def __init__(self, left_bytes: int, budget: Budget) -> None:
        self.left_bytes, self.budget = left_bytes, budget


_current: Final[ContextVar[_Allowance | None]] = ContextVar("allowance", default=None)


def require(size_bytes: int) -> None:
    """Check that values of this size may be made.

    Raises:
        TooLargeError: They may not; nothing has been made yet.
    """
    allowance = _current.get()
    if allowance is not None and size_bytes > allowance.left_bytes:
        raise TooLargeError


def reserve(size_bytes: int) -> None:
    """Reserve memory until the end of the slice. Raises like `require`."""
    require(size_bytes)
    allowance = _current.get()
    if allowance is not None:
        allowance.left_bytes -= size_bytes


def check_time() -> None:
    """Check whether the request should continue; raises what the budget's `check` raises."""
    allowance = _current.get()
    if allowance is not None:
        allowance.budget.check()


def current_budget() -> Budget:
    """Return the budget of the slice that is being evaluated, or else the default."""
    allowance = _current.get()
    return DEFAULT_BUDGET if allowance is None else allowance.budget


def decoded_bytes(values: pa.Array) -> int:
    """Return the size of an array after decoding a dictionary of strings."""
    if not pa.types.is_dictionary(values.type):
        return int(values.nbytes)
    sizes = pc.binary_length(values.dictionary)
    return (pc.sum(sizes.take(values.indices)).as_py() or 0) + _TEXT * len(values)


def reserve_decoded(values: pa.Array) -> None:
    """Reserve memory to decode a dictionary of strings. Raises like `require`."""
    allowance = _current.get()
    if allowance is None:
        return
    # No string is longer than the dictionary, whose size is known.
    size_bytes = (values.dictionary.nbytes + _TEXT) * len(values)
    if size_bytes > allowance.left_bytes // _ROUGH_PARTS:
        longest = pc.max(pc.binary_length(values.dictionary)).as_py() or 0
        size_bytes = (longest + _TEXT) * len(values)
    # The exact size takes a quarter of the time of decoding.
    reserve(size_bytes if size_bytes <= allowance.left_bytes else decoded_bytes(values))


def in_slices(
    rows: int,
    budget: Budget,
    where: str,
    evaluate: Callable[[int, int], _Result],
    slice_rows: int = SLICE_ROWS,
) -> Iterator[_Result]:
    """Yield the results of `evaluate(start, count)` for consecutive slices of `rows` rows.

    Raises:
        SqlMemoryError: One row needs more memory than the budget.
        UnsupportedError: The values exceed a limit of Arrow.
    """
    start = 0
    while start < rows:
        budget.check()
        count = min(slice_rows, rows - start)
        size_bytes = budget.memory_bytes if count == 1 else budget.step_bytes
        token = _current.set(_Allowance(size_bytes, budget))
        try:
            with arrow_limits(where):
                result = evaluate(start, count)
        except TooLargeError:
            if count == 1:
                raise budget.exceeded() from None
            slice_rows = count // 2
            continue
        finally:
            _current.reset(token)
        yield result
        start += count


class arrow_limits:
    """Convert errors of Arrow in computations on values.

    Raises:
        UnsupportedError: Values are too many or too long for Arrow, or for the process's memory.
    """

    # A class, since entering a generator takes several times as long, and each batch does.
    __slots__ = ("_where",)

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None and issubclass(kind, (pa.ArrowException, MemoryError)):
            what = f"a computation on these values ({kind.__name__})"
            raise UnsupportedError(what, self._where) from error  # type: ignore[misc]
