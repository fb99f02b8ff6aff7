"""Checksum of a table that is independent of the order of its rows.

    value   NULL -> "N;"    text -> "S" length ":" UTF-8 ";"    bytes -> "X" length ":" bytes ";"
    row     the concatenated values; the digest is the first 16 bytes of their SHA-256
    table   the sum of the row digests, as big-endian numbers, mod 2**128, in 32 hex digits

Lengths are in bytes, printed in decimal. The digests are added rather than XORed so that equal rows
do not cancel out. The row digest also identifies rows of a table without a primary key.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DIGEST_BYTES: Final = 16
_WORD_BITS: Final = 32
# 64-bit offsets, because the columns of a batch together may exceed 2 GiB.
_BYTES: Final = pa.large_binary()


def row_digests(columns: Sequence[pa.Array]) -> list[bytes]:
    """Return the 16-byte digest of every row.

    Args:
        columns: One or more string or binary arrays, as returned by `text.format_column`.
    """
    parts = [part for n, column in enumerate(columns) for part in _value_parts(column, n == 0)]
    end_and_separator = (pa.scalar(b";", _BYTES), pa.scalar(b"", _BYTES))
    # The value part of a NULL is null; its "N" is in the header.
    rows = pc.binary_join_element_wise(*parts, *end_and_separator, null_handling="replace")
    sha256 = hashlib.sha256
    return [sha256(row).digest()[:DIGEST_BYTES] for row in rows.to_pylist()]


class TableDigest:
    """Checksum of the rows passed to `update` so far, in any order and any batches."""

    def __init__(self) -> None:
        self._sum = 0
        self._rows = 0

    @property
    def rows(self) -> int:
        """Number of rows added."""
        return self._rows

    def update(self, columns: Sequence[pa.Array]) -> None:
        """Add rows. `columns` is as for `row_digests`."""
        digests = row_digests(columns)
        self._sum += _sum(digests)
        self._rows += len(digests)

    def hexdigest(self) -> str:
        """Return the checksum as 32 hex digits; zeros for an empty table."""
        return f"{self._sum % (1 << 8 * DIGEST_BYTES):0{2 * DIGEST_BYTES}x}"


def _value_parts(column: pa.Array, is_first: bool) -> tuple[pa.Array, pa.Array]:
    """Return the headers, which begin with the ";" of the previous value, and the values."""
    previous_end = b"" if is_first else b";"
    tag = b"X" if pa.types.is_binary(column.type) else b"S"
    # There are few distinct lengths, so build one header per length.
    lengths = pc.dictionary_encode(pc.binary_length(column))
    headers = [b"%b%b%d:" % (previous_end, tag, size) for size in lengths.dictionary.to_pylist()]
    header = pa.array(headers, _BYTES).take(lengths.indices)
    return pc.fill_null(header, pa.scalar(previous_end + b"N", _BYTES)), pc.cast(column, _BYTES)


def _sum(digests: Sequence[bytes]) -> int:
    """Add digests by 32-bit words: the sum of 2**32 such words fits into 64 bits."""
    words = np.frombuffer(b"".join(digests), ">u4").reshape(-1, DIGEST_BYTES * 8 // _WORD_BITS)
    total = 0
    for word_sum in words.sum(axis=0, dtype=np.uint64).tolist():
        total = (total << _WORD_BITS) + word_sum
    return total
