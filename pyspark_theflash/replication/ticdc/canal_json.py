r"""Rows in canal-json with the TiDB extension, one message a line.

    {"database": "shop", "table": "t", "isDdl": false, "type": "UPDATE",
     "sqlType": {"id": -5, "b": 2004}, "data": [{"id": "1", "b": "\u0000ÿ"}], "old": [...],
     "_tidb": {"commitTs": 470613076829274117}}

All values are texts or null. A column of `sqlType` 2004 (BLOB) has one character per byte. See
pingcap/ticdc, pkg/sink/codec/canal/canal_json_encoder.go.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pyspark_theflash.base.errors import CorruptionError, OptionError, UnsupportedError
from pyspark_theflash.replication.ticdc.rows import CHUNK_BYTES, RowList, SinkRows
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS, boolean, brief, load, text, uint64

_IS_DELETE: Final = {"INSERT": False, "UPDATE": False, "DELETE": True}
_WATERMARK: Final = "TIDB_WATERMARK"
_BLOB: Final = 2004
_EXTENSION: Final = (
    "the sink's messages have no commit_ts: set enable-tidb-extension=true in the changefeed's "
    "sink URI"
)


def parse_canal_json(data: bytes, file: str) -> Iterator[SinkRows]:
    """Yield the rows of a file by table and columns, a part of the file at a time.

    `data` is complete lines.

    Raises:
        CorruptionError: A line is not a message.
        OptionError: The changefeed does not have the TiDB extension.
        UnsupportedError: A message contains only the key of its row.
    """
    at = 0
    while at < len(data):
        end = data.find(b"\n", min(at + CHUNK_BYTES, len(data) - 1)) + 1 or len(data)
        yield from _part(data[at:end], file, at)
        at = end


def _part(data: bytes, file: str, offset: int) -> list[SinkRows]:
    lists: dict[tuple[object, ...], RowList] = {}
    for line in data.splitlines(keepends=True):
        try:
            message = load(line)
            if _is_row(message):
                _add(message, lists, file)
        except SHAPE_ERRORS as error:
            raise CorruptionError(file, offset, f"not a canal-json row: {brief(error)}") from None
        offset += len(line)
    try:
        return [rows.to_rows(is_csv=False) for rows in lists.values()]
    except SHAPE_ERRORS as error:
        reason = f"a value is neither a text nor null ({type(error).__name__})"
        raise CorruptionError(file, offset, reason) from None


def _is_row(message: Mapping[str, Any]) -> bool:
    return not boolean(message["isDdl"]) and message["type"] != _WATERMARK


def _add(message: Mapping[str, Any], lists: dict[tuple[object, ...], RowList], file: str) -> None:
    extension = message.get("_tidb")
    if extension is None:
        raise OptionError("source", _EXTENSION)
    if extension.get("onlyHandleKey") or extension.get("claimCheckLocation"):
        raise UnsupportedError("a message that contains only the key of its row", file)
    database, table = text(message["database"]), text(message["table"])
    commit_ts, is_delete = uint64(extension["commitTs"]), _IS_DELETE[message["type"]]
    types = message["sqlType"]
    for row in _rows(message["data"]):
        key = database, table, *row, *types.values()
        rows = lists.get(key)
        if rows is None:
            encoded = frozenset(name for name, code in types.items() if code == _BLOB)
            rows = lists[key] = RowList(database, table, tuple(row), encoded)
        rows.values.append(tuple(row.values()))
        rows.commit_ts.append(commit_ts)
        rows.is_delete.append(is_delete)


def _rows(data: Sequence[Mapping[str, str | None]]) -> Sequence[Mapping[str, str | None]]:
    if not isinstance(data, list) or not all(isinstance(row, dict) and row for row in data):
        raise TypeError("data is not a list of rows")
    return data
