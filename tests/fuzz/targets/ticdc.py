"""Files of TiCDC's storage sink, of which the ones in canal-json are from TiCDC's encoder."""

import json
from collections.abc import Iterable
from pathlib import Path

from pyarrow import fs

from pyspark_theflash.replication.storage import Storage
from pyspark_theflash.replication.ticdc.canal_json import parse_canal_json
from pyspark_theflash.replication.ticdc.csv_rows import parse_csv, parse_schema
from pyspark_theflash.replication.ticdc.layout import parse_data_file, parse_schema_file
from pyspark_theflash.replication.ticdc.rows import BinaryEncoding, SinkFormat, SinkRows
from pyspark_theflash.replication.ticdc.storage import checkpoint_ts
from pyspark_theflash.replication.ticdc.versions import TableNames, decode_rows, version_batches
from tests.fuzz.mutate import JSON_WORDS, TEXT_WORDS, bytes_like, json_like
from tests.fuzz.run import Target
from tests.support.golden_vectors import ticdc_messages
from tests.support.ticdc_tables import column, history_of, table_of

_CSV = b"""\
"I","t","bl",470613076829274115,1,18446744073709551615,"h\xc3\xa9""llo","AP8Q","-1.5",-2.5,\
"2020-01-02 03:04:05.678901","{""a"": [1, null]}",\\N,"b","a,c",5
"D","t","bl",470613076829274116,1,\\N,\\N,\\N,\\N,1e+21,\\N,\\N,\\N,\\N,\\N,\\N
"""
_TABLE = table_of(
    column("id", "LONGLONG"),
    column("u", "LONGLONG", 32),
    column("s", "VARCHAR", charset="utf8mb4"),
    column("b", "BLOB", charset="binary"),
    column("d", "NEWDECIMAL", flen=20, decimal=6),
    column("f", "DOUBLE"),
    column("dt", "TIMESTAMP", decimal=6),
    column("j", "JSON"),
    column("n", "LONG"),
    column("e", "ENUM", elems=("a", "b")),
    column("st", "SET", elems=("a", "b", "c")),
    column("bit", "BIT", flen=8),
    db="bl",
)
_NAMES = TableNames(history_of(_TABLE, end_ts=1 << 62))
_SINK = SinkFormat("Europe/Berlin", BinaryEncoding.BASE64)


def _decode(parts: Iterable[SinkRows]) -> None:
    decoded = [
        decode_rows(rows, table, _SINK, lambda table, ts: table)
        for part in parts
        if len(part.commit_ts)
        for table, rows in _NAMES.definitions(part)
    ]
    version_batches(decoded)


def canal_json_file(folder: Path) -> Target:
    """Rows in canal-json, decoded to versions."""
    seeds = ticdc_messages("canal-json")[:3]
    return Target(
        [b"".join(seeds)],
        bytes_like([*seeds, b"".join(seeds)], JSON_WORDS),
        lambda data: _decode(parse_canal_json(data, "file")),
    )


def canal_json_values(folder: Path) -> Target:
    """Messages with other values and fields."""
    documents = [json.loads(message) for message in ticdc_messages("canal-json")]
    # The first message pays for what Arrow loads once.
    seeds = [ticdc_messages("canal-json")[0]]
    return Target(seeds, json_like(documents), lambda data: _decode(parse_canal_json(data, "file")))


def csv_file(folder: Path) -> Target:
    """Rows in csv, decoded to versions."""
    names = [c.name for c in _TABLE.columns]
    return Target(
        [_CSV],
        bytes_like([_CSV, *_CSV.splitlines(keepends=True)], TEXT_WORDS),
        lambda data: _decode(parse_csv(data, "file", names)),
    )


def sink_schema_file(folder: Path) -> Target:
    """A schema file of a table."""
    document = {"Table": "t", "Query": "", "TableColumns": [{"ColumnName": "id"}]}
    return Target(
        [json.dumps(document).encode()], json_like([document]), lambda data: parse_schema(data, "f")
    )


def sink_path(folder: Path) -> Target:
    """A path in a sink."""
    version = b"441349361156227074"
    seeds = [
        b"d/t/" + version + b"/2022-01-02/CDC_a_000001.json",
        b"7/" + version + b"/CDC000001.csv",
        b"d/t/meta/schema_" + version + b"_0000000001.json",
    ]

    def parse(data: bytes) -> None:
        path = data.decode(errors="surrogateescape")
        parse_schema_file(path)
        parse_data_file(path)

    return Target(seeds, bytes_like(seeds, [b"/", b"_", b"-", b"0", b"9" * 30, b"CDC"]), parse)


def sink_metadata(folder: Path) -> Target:
    """The file with the checkpoint."""
    storage = Storage(fs.LocalFileSystem(), str(folder), "file")

    def parse(data: bytes) -> None:
        (folder / "metadata").write_bytes(data)
        checkpoint_ts(storage)

    seed = b'{"checkpoint-ts":433305438660591626}'
    return Target([seed], json_like([json.loads(seed)]), parse)
