"""Columns of a scan as Spark SQL over stored columns, without Python.

A column needs Python (`snapshot.py`) if MODIFY COLUMN made it and rows from before are read, if it
is a virtual generated column, or if TiDB's texts are wanted.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import pyarrow as pa

from pyspark_theflash.read.present import Presentation, ZeroDates
from pyspark_theflash.spark.delta.encoding import (
    COMMON,
    PHYSICAL,
    PLAIN,
    json_name,
    type_name,
    variants,
)
from pyspark_theflash.spark.delta.stored import StoredRows
from pyspark_theflash.spark.schema import spark_type
from pyspark_theflash.storage.mvcc.project import Default, ScanColumn
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE, OP, Op
from pyspark_theflash.tidb.codec.field_type import DATETIME_TYPES, FieldType, MySQLType
from pyspark_theflash.tidb.schema.model import ROWID_COLUMN, ColumnInfo

_LAST_YEAR: Final = 9999
_WIDENING: Final = (("i8", "i16", "i32", "i64"), ("u8", "u16", "u32"))
_LITERALS: Final = ("string", "tinyint", "smallint", "int", "bigint", "float", "double")


def native_columns(
    rows: StoredRows,
    infos: Sequence[ColumnInfo],
    columns: Sequence[ScanColumn],
    presentation: Presentation,
    odd: frozenset[int],
) -> list[str] | None:
    """Return SQL expressions of all columns of a scan; None if one of them needs Python.

    Args:
        columns: those of `infos`, except `_tidb_rowid`.
        odd: ids of columns that have dates which do not exist.
    """
    if presentation.as_text or presentation.zero_dates is ZeroDates.STRING:
        return None
    expressions, remaining = [], iter(columns)
    for info in infos:
        value: str | None = HANDLE
        if info is not ROWID_COLUMN:
            value = _column(rows, info, next(remaining), presentation, is_odd=info.id in odd)
        if value is None:
            return None
        expressions.append(f"{value} AS {identifier(info.name)}")
    return expressions


def identifier(name: str) -> str:
    """Quote a name for Spark SQL."""
    return "`{}`".format(name.replace("`", "``"))


def select(
    source: str, columns: Iterable[str], physical_ids: Iterable[int], ts: int, *, is_common: bool
) -> str:
    """Return a query of the versions in a table expression that a snapshot sees (`visibility`)."""
    ids, handle = ", ".join(map(str, physical_ids)), COMMON if is_common else HANDLE
    until = f"{PHYSICAL} IN ({ids}) AND {COMMIT_TS} <= {ts}"
    keys = f"{PHYSICAL} AS np, {handle} AS nh, {COMMIT_TS} AS nt"
    newer = f"(SELECT {keys} FROM {source} WHERE {until} AND NOT {PLAIN})"  # noqa: S608 (constants)
    same = f"{PHYSICAL} = np AND {handle} = nh AND nt > {COMMIT_TS}"
    rows = f"{source} LEFT ANTI JOIN {newer} ON {same} WHERE {until} AND {OP} = {int(Op.PUT)}"
    return f"SELECT {', '.join(columns)} FROM {rows}"  # noqa: S608 (names are quoted)


def _column(
    rows: StoredRows,
    info: ColumnInfo,
    column: ScanColumn,
    presentation: Presentation,
    *,
    is_odd: bool,
) -> str | None:
    if not column.is_held or column.doubts_null:
        return None
    if not rows.has(column.id):
        return _literal(column.fill, info, presentation)
    value = _held(rows, info, column.type)
    if value is None:
        return None
    value = _shown(value, info.type)
    if is_odd:
        value = _without_odd(value, info, presentation)
    absent = rows.is_absent(column.id)
    is_null = isinstance(column.fill, Default) and not column.fill.value.is_valid
    if absent is None or is_null:
        return value
    default = _literal(column.fill, info, presentation)
    return None if default is None else f"CASE WHEN {absent} THEN {default} ELSE {value} END"


def _held(rows: StoredRows, info: ColumnInfo, tp: pa.DataType) -> str | None:
    """Return a stored column; None if it has types that Spark does not convert as we do."""
    if info.type.tp == MySQLType.JSON:
        return json_name(info.id)
    stored, wanted = variants(rows.frame.columns, info.id), type_name(tp)
    if list(stored) == [wanted]:
        return stored[wanted]
    for kinds in _WIDENING:
        if {wanted, *stored} <= set(kinds) and wanted == max((wanted, *stored), key=kinds.index):
            target = spark_type(info.type).simpleString()
            return f"coalesce({', '.join(f'CAST({name} AS {target})' for name in stored.values())})"
    return None


def _shown(value: str, field_type: FieldType) -> str:
    """Return a stored column in the type of the source `theflash`."""
    tp = field_type.tp
    if tp == MySQLType.LONGLONG and field_type.is_unsigned:
        number, above = f"CAST({value} AS DECIMAL(20,0))", f"CAST('{1 << 64}' AS DECIMAL(20,0))"
        wrapped = f"CAST({number} + {above} AS DECIMAL(20,0))"
        return f"CASE WHEN {value} < 0 THEN {wrapped} ELSE {number} END"
    if tp == MySQLType.ENUM:
        names = ", ".join(map(_text, ["", *field_type.elems]))
        shown = f"coalesce(get(array({names}), CAST({value} AS INT)), '')"
        return f"CASE WHEN {value} IS NOT NULL THEN {shown} END"
    if tp == MySQLType.SET:
        parts = [
            f"CASE WHEN shiftrightunsigned({value}, {bit}) & 1 = 1 THEN {_text(name)} END"
            for bit, name in enumerate(field_type.elems)
        ]
        shown = f"concat_ws(',', {', '.join(parts)})"
        return f"CASE WHEN {value} IS NOT NULL THEN {shown} END"
    if tp == MySQLType.BIT:
        digits = 2 * ((max(field_type.flen, 1) + 7) // 8)
        return f"unhex(lpad(hex({value}), {digits}, '0'))"
    if tp == MySQLType.TIME:
        seconds = f"CAST({value} AS DECIMAL(18,0)) * CAST('0.000001' AS DECIMAL(6,6))"
        return f"make_dt_interval(0, 0, 0, CAST({seconds} AS DECIMAL(18,6)))"
    return value


def _without_odd(value: str, info: ColumnInfo, presentation: Presentation) -> str:
    """Return dates, with NULL or an error where they do not exist (`tidb.codec.time`)."""
    if presentation.zero_dates is ZeroDates.NULL:
        return f"CASE WHEN year({value}) <= {_LAST_YEAR} THEN {value} END"
    error = f"column {info.name} has a date that does not exist; see the option zero_dates"
    is_odd = f"year({value}) > {_LAST_YEAR}"
    return f"CASE WHEN {is_odd} THEN raise_error({_text(error)}) ELSE {value} END"


def _literal(fill: object, info: ColumnInfo, presentation: Presentation) -> str | None:
    """Return a default as a literal; None if its type has no literal here."""
    if not isinstance(fill, Default):
        return None
    target = spark_type(info.type, presentation).simpleString()
    if not fill.value.is_valid:
        return f"CAST(NULL AS {target})"
    if info.type.tp in DATETIME_TYPES or not target.startswith((*_LITERALS, "decimal")):
        return None
    shown = presentation.apply(fill.values({}, 1), info.type, info.name)
    return f"CAST({_text(str(shown[0].as_py()))} AS {target})"


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
