"""Table definitions and rows for tests of TiCDC's storage sink."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from pyspark_theflash.base.types import ColumnID, TableID, TimeStamp
from pyspark_theflash.replication.ticdc.rows import SinkRows
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo

DEFINITION = '{"id":%d,"name":{"O":"%s"},"cols":[],"pk_is_handle":true}'


def column(name: str, tp: str, flag: int = 0, **properties: object) -> ColumnInfo:
    """A public column; `flen`, `decimal`, `charset` and `elems` are those of its type."""
    kinds = {
        key: properties.pop(key)
        for key in ("flen", "decimal", "charset", "elems")
        if key in properties
    }
    field_type = FieldType(MySQLType[tp], flag, **kinds)  # type: ignore[arg-type]
    return ColumnInfo(ColumnID(0), name, 0, field_type, **properties)  # type: ignore[arg-type]


def table_of(*columns: ColumnInfo, id: int = 7, name: str = "t", db: str = "d") -> TableInfo:
    """A table whose first column is its integer primary key."""
    first = replace(columns[0].type, flag=columns[0].type.flag | ColumnFlag.PRI_KEY)
    every = [replace(columns[0], type=first), *columns[1:]]
    return TableInfo(
        id=TableID(id),
        db=db,
        name=name,
        columns=tuple(replace(c, id=ColumnID(n + 1), offset=n) for n, c in enumerate(every)),
        pk_is_handle=True,
        is_common_handle=False,
        primary_key=None,
        partition=None,
        json_text=DEFINITION % (id, name),
    )


def history_of(*tables: TableInfo, end_ts: int = 10**9) -> SchemaHistory:
    """A history in which the tables exist from 1 on."""
    events = [TableEvent(TimeStamp(1), t.db, t.id, t) for t in tables]
    return SchemaHistory(TimeStamp(1), TimeStamp(end_ts), events, [])


def rows_of(
    columns: Mapping[str, Sequence[str | None]],
    commit_ts: Sequence[int] = (),
    is_delete: Sequence[bool] = (),
    **properties: object,
) -> SinkRows:
    """Rows of `d.t`, committed at 10 unless given."""
    count = len(next(iter(columns.values())))
    return SinkRows(
        "d",
        "t",
        tuple(columns),
        [pa.array(texts, pa.string()) for texts in columns.values()],
        np.array(commit_ts or [10] * count, np.uint64),
        np.array(is_delete or [False] * count, np.bool_),
        **{"is_csv": False} | properties,  # type: ignore[arg-type]
    )
