"""Values encoded, computed and assigned to partitions by TiDB's own code."""

import gzip
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.codec.text import parse_column
from pyspark_theflash.tidb.schema.file import read_schema_file
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import TableInfo

VECTORS: Final = Path(__file__).parents[1] / "golden" / "vectors"


def codec_vectors(kind: str) -> list[dict[str, Any]]:
    """The vectors of one kind: `in` is the value, `hex` its encoding."""
    chosen = [vector for vector in _document("codec_vectors.json.gz") if vector["kind"] == kind]
    assert chosen, kind
    return chosen


def value_vectors(kind: str) -> list[dict[str, Any]]:
    """The entries of `value_vectors.json.gz` of one kind; its `provenance` describes each."""
    entries: list[dict[str, Any]] = _document("value_vectors.json.gz")[kind]
    return entries


def live_tables() -> list[dict[str, Any]]:
    """Tables with rows as SELECT shows them, keys and values."""
    tables: list[dict[str, Any]] = _document("live_vectors.json.gz")["tables"]
    return tables


def live_meta_keys() -> set[bytes]:
    """Meta keys of the cluster that these tables were in."""
    return {bytes.fromhex(key) for key, _ in _document("live_vectors.json.gz")["meta"]}


def generated_columns() -> dict[str, Any]:
    """A table with many virtual generated columns, its rows, and the values TiDB computed."""
    document: dict[str, Any] = _document("generated_columns.json.gz")
    return document


def partitioned_tables() -> list[dict[str, Any]]:
    """Partitioned tables, with the rows of each partition and rows that TiDB refused."""
    tables: list[dict[str, Any]] = _document("partitions.json.gz")["tables"]
    return tables


def stored_columns(
    table: TableInfo, names: Sequence[str], rows: Sequence[Sequence[Any]]
) -> dict[ColumnID, pa.Array]:
    """Rows of texts (bytes are `{"x": hex}`) as stored columns; generated columns are left out."""
    columns = {}
    for place, name in enumerate(names):
        column = next(c for c in table.columns if c.name == name)
        if not column.generated:
            texts = shown_values([row[place] for row in rows], column.type)
            columns[column.id] = parse_column(texts, column.type, name)
    return columns


def shown_values(values: Sequence[Any], field_type: FieldType) -> pa.Array:
    """Texts as `format_column` gives them."""
    if not (field_type.is_binary_string or field_type.tp == MySQLType.BIT):
        return pa.array(values, pa.string())
    raw = [bytes.fromhex(v["x"]) if isinstance(v, dict) else v and v.encode() for v in values]
    return pa.array([b"" if v == "" else v for v in raw], pa.binary())


def ticdc_messages(protocol: str) -> list[bytes]:
    """The messages of TiCDC's own encoder in one protocol, in order."""
    vectors = _document("ticdc_codec_vectors.json.gz")
    chosen = [bytes.fromhex(v["Value"]) for v in vectors if v["Protocol"] == protocol]
    assert chosen, protocol
    return [m if m.endswith(b"\n") else m + b"\r\n" for m in chosen]


@cache
def ddl_history() -> SchemaHistory:
    """The schema of a history of many schema changes."""
    return read_schema_file(VECTORS / "ddl_schema.json.gz")


@cache
def _document(name: str) -> Any:
    return json.loads(gzip.decompress((VECTORS / name).read_bytes()))
