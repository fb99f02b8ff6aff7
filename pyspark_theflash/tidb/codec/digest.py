"""A table's checksum that does not depend on the order of its rows.

    value   NULL -> "N;"    text -> "S" length ":" UTF-8 ";"    bytes -> "X" length ":" bytes ";"
    row     the values joined; its digest is the first 16 bytes of their SHA-256
    table   the sum of the row digests, as big-endian numbers, mod 2**128, in 32 hex digits

Lengths count bytes, in decimal. A sum, not an exclusive or, so that equal rows do not cancel out.
The digest of a row also tells rows apart where a table has no primary key.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute

# pyarrow-stubs do not know scalars beside arrays as arguments of these functions.
pc: Any = pyarrow.compute
_Array: TypeAlias = Any

DIGEST_BYTES: Final = 16
_WORD_BITS: Final = 32
# With 64-bit offsets: the columns of a batch together may pass 2 GiB.
_BYTES: Final = pa.large_binary()


def row_digests(columns: Sequence["pa.Array[Any]"]) -> list[bytes]:
    """One digest of 16 bytes for every row.

    Args:
        columns: one or more, text or bytes, as `tidb.codec.text.format_column` makes them.
    """
    parts = [part for n, column in enumerate(columns) for part in _value_parts(column, n == 0)]
    end_and_no_separator = (pa.scalar(b";", _BYTES), pa.scalar(b"", _BYTES))
    # The value part of a NULL is null; its "N" is in the part before.
    rows = pc.binary_join_element_wise(*parts, *end_and_no_separator, null_handling="replace")
    sha256 = hashlib.sha256
    return [sha256(row).digest()[:DIGEST_BYTES] for row in rows.to_pylist()]


class TableDigest:
    """The checksum of the rows given so far, in any order and any batches."""

    def __init__(self) -> None:
        self._sum = 0
        self._rows = 0

    @property
    def rows(self) -> int:
        """How many rows were given."""
        return self._rows

    def update(self, columns: Sequence["pa.Array[Any]"]) -> None:
        """Add rows; `columns` as for `row_digests`."""
        digests = row_digests(columns)
        self._sum += _sum(digests)
        self._rows += len(digests)

    def hexdigest(self) -> str:
        """32 hex digits; zeros for an empty table."""
        return f"{self._sum % (1 << 8 * DIGEST_BYTES):0{2 * DIGEST_BYTES}x}"


def _value_parts(column: _Array, is_first: bool) -> tuple[_Array, _Array]:
    """What stands before each value (from the end of the one before), and the values."""
    end_before = b"" if is_first else b";"
    tag = b"X" if pa.types.is_binary(column.type) else b"S"
    # There are few different lengths, so a header is made once for each.
    lengths = pc.dictionary_encode(pc.binary_length(column))
    headers = [b"%b%b%d:" % (end_before, tag, length) for length in lengths.dictionary.to_pylist()]
    header = pa.array(headers, _BYTES).take(lengths.indices)
    return pc.fill_null(header, pa.scalar(end_before + b"N", _BYTES)), pc.cast(column, _BYTES)


def _sum(digests: Sequence[bytes]) -> int:
    """Adds up word by word: 2**32 words of 32 bits fit into 64."""
    words = np.frombuffer(b"".join(digests), ">u4").reshape(-1, DIGEST_BYTES * 8 // _WORD_BITS)
    total = 0
    for word_sum in words.sum(axis=0, dtype=np.uint64).tolist():
        total = (total << _WORD_BITS) + word_sum
    return total
