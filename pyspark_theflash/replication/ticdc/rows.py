"""Rows of TiCDC's storage sink as they are in its files: names and texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.base.types import PhysicalTableID

TimeStamps = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

CHUNK_BYTES: Final = 8 << 20
"""Bytes of a file that are converted to columns together, because rows as objects are large."""


class BinaryEncoding(Enum):
    """Text form of binary strings; the values of the last two are TiCDC's for csv."""

    LATIN1 = "latin1"
    BASE64 = "base64"
    HEX = "hex"


@dataclass(frozen=True, slots=True)
class SinkFormat:
    """Properties of a sink's output that are not in its files; None if not specified.

    Attributes:
        time_zone: Time zone of TiCDC's servers, in which it writes TIMESTAMP values.
        binary_encoding: `binary-encoding-method` of csv.
    """

    time_zone: str | None = None
    binary_encoding: BinaryEncoding | None = None


@dataclass(frozen=True, slots=True)
class SinkRows:
    """Rows of one table with the same columns, in the order of the file.

    Attributes:
        columns: Texts (`pa.string`) by column name; an entry of None is a column by position, whose
            name is in the schema file.
        encoded: Names of the columns with encoded bytes, for canal-json.
        physical_id: The partition, if the path contains it.
        file: Path of the file, for errors.
    """

    database: str
    table: str
    names: tuple[str, ...]
    texts: Sequence[pa.Array]
    commit_ts: TimeStamps
    is_delete: Mask
    is_csv: bool
    encoded: frozenset[str] = frozenset()
    physical_id: PhysicalTableID | None = None
    file: str = ""

    @property
    def full_name(self) -> str:
        return f"{self.database}.{self.table}"

    def where(self, mask: Mask) -> "SinkRows":
        """Return the rows at which `mask` is set."""
        if mask.all():
            return self
        chosen = pa.array(mask)
        return replace(
            self,
            texts=[texts.filter(chosen) for texts in self.texts],
            commit_ts=self.commit_ts[mask],
            is_delete=self.is_delete[mask],
        )


@dataclass(slots=True)
class RowList:
    """Rows of one table as objects, to be converted to `SinkRows`."""

    database: str
    table: str
    names: tuple[str, ...]
    encoded: frozenset[str] = frozenset()
    values: list[Sequence[str | None]] = field(default_factory=list)
    commit_ts: list[int] = field(default_factory=list)
    is_delete: list[bool] = field(default_factory=list)

    def to_rows(self, *, is_csv: bool) -> SinkRows:
        """Convert to columns. Raises `ValueError`, `TypeError` for values that are not texts."""
        columns = zip(*self.values, strict=True)
        return SinkRows(
            self.database,
            self.table,
            self.names,
            [pa.array(column, pa.string()) for column in columns],
            np.array(self.commit_ts, np.uint64),
            np.array(self.is_delete, np.bool_),
            is_csv,
            self.encoded,
        )
