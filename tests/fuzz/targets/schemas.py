"""Descriptions of tables: schema files, TableInfos, bases, and responses of a live TiDB."""

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.types import MAX_TS, SchemaVersion, TableID
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.digest import TableDigest
from pyspark_theflash.tidb.codec.jsonl import parse_jsonl
from pyspark_theflash.tidb.codec.text import format_column, parse_column
from pyspark_theflash.tidb.partitioning.row_partition import partition_columns
from pyspark_theflash.tidb.schema.base import read_base, read_base_rows
from pyspark_theflash.tidb.schema.default import origin_value
from pyspark_theflash.tidb.schema.file import read_schema_file
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.lineage import Lineage
from pyspark_theflash.tidb.schema.meta_key import SCHEMA_VERSION_KEY, MetaKey
from pyspark_theflash.tidb.schema.model import ROWID_NAME, ROWID_TYPE, TableInfo, parse_table_info
from pyspark_theflash.tidb.schema.status_api import StatusApi
from pyspark_theflash.tidb.schema.tidb import TidbSchemaSource
from tests.fuzz.mutate import JSON_WORDS, bytes_like, changed_json, json_like
from tests.fuzz.run import Target
from tests.fuzz.targets.captured import every_type_json, schema_document
from tests.support.golden_vectors import live_tables, partitioned_tables
from tests.support.live_schema import RECORDING
from tests.support.meta_cluster import ADD_COLUMN, CREATE_DATABASE, CREATE_TABLE, MetaCluster, info
from tests.support.schema import tables_at
from tests.support.workloads import FIXTURES


def table_info(_: Path) -> Target:
    """TableInfo, and the properties that callers read."""
    infos = [t["table_info"] for t in live_tables()[:12]]
    infos = [i for i in infos if len(i["cols"]) < 9] + [every_type_json()]
    infos += [t["table_info"] for t in partitioned_tables()[:40:3]]
    return Target(_texts(infos), json_like(infos), lambda d: _use(_table(d)))


def _table(data: bytes) -> TableInfo:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    return parse_table_info("d", document)


def _use(table: TableInfo) -> None:
    _ = table.public_columns, table.handle_columns, table.physical_ids, table.full_name.lower()
    table.with_columns_of(table)
    hash(table)
    partition_columns(table)
    for column in table.columns:
        arrow_type(column.type)
        origin_value(column)


def schema_file(folder: Path) -> Target:
    document = schema_document("bank")
    small = {
        **document,
        "initial": document["initial"][:2],
        "changes": document["changes"][:3],
        "schema_versions": document.get("schema_versions", [])[:3],
    }
    path = folder / "schema.json"
    texts = _texts([small])
    zipped = bytes_like([gzip.compress(texts[0])])
    plain = json_like([small])

    def mutate(rng: random.Random) -> bytes:
        return zipped(rng) if rng.random() < 0.1 else plain(rng)

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        history = read_schema_file(path)
        history.extend(history)
        tables_at(history, history.end_ts)
        Lineage(history)
        for event in history.events:
            if event.table is not None:
                _use(event.table)

    return Target([*texts, gzip.compress(texts[0])], mutate, parse)


def base_index(folder: Path) -> Target:
    index = [
        {
            "db": "d",
            "table": "t",
            "table_id": 7,
            "columns": ["id", "v"],
            "file": "t.jsonl.gz",
            "rows": 1,
            "checksum": "452524e288679d076040c85ef53397c1",
        }
    ] * 2

    def parse(data: bytes) -> None:
        (folder / "base.json").write_bytes(data)
        read_base(folder)

    return Target(_texts([index]), json_like([index]), parse)


def base_rows(folder: Path) -> Target:
    """The file of a table's rows; beside what unpacks, what does not."""
    listed = max(read_base(FIXTURES / "tpcc" / "base").tables, key=lambda t: len(t.columns))
    table = _base_infos("tpcc")[listed.table_id]
    with gzip.open(listed.file, "rt") as source:
        lines = [source.readline().encode() for _ in range(3)]
    types = {c.name: c.type for c in table.public_columns} | {ROWID_NAME: ROWID_TYPE}
    columns = parse_jsonl([line.decode() for line in lines])
    digest = TableDigest()
    digest.update(
        [
            format_column(parse_column(texts, types[name], name), types[name])
            for texts, name in zip(columns, listed.columns, strict=True)
        ]
    )
    content = b"".join(lines)
    file = folder / "t.jsonl.gz"
    base = replace(listed, file=file, rows=3, checksum=digest.hexdigest())
    plain, zipped = bytes_like([content], JSON_WORDS), bytes_like([gzip.compress(content)])

    def mutate(rng: random.Random) -> bytes:
        return zipped(rng) if rng.random() < 0.2 else gzip.compress(plain(rng), 1)

    def parse(data: bytes) -> None:
        file.write_bytes(data)
        for _ in read_base_rows(base, table, 100):
            pass

    return Target([gzip.compress(content)], mutate, parse)


def _base_infos(name: str) -> dict[TableID, TableInfo]:
    initial = schema_document(name)["initial"]
    tables = [parse_table_info(entry["db"], entry["table"]) for entry in initial]
    return {table.id: table for table in tables}


def status_answer(_: Path) -> Target:
    """One answer of TiDB's status API: the path, and behind a line feed the body."""
    answers = _recorded()
    paths = [p for p in answers if len(json.dumps(answers[p])) < 20_000]
    chosen = {path: answers[path] for path in paths}
    by_path = {path: json_like([answer]) for path, answer in chosen.items()}

    def mutate(rng: random.Random) -> bytes:
        path = rng.choice(list(by_path))
        return path.encode() + b"\n" + by_path[path](rng)

    def parse(data: bytes) -> None:
        path, _, body = data.partition(b"\n")
        api = _Answering(body)
        if path.startswith(b"/schema"):
            api.list_databases()
        elif path.startswith(b"/ddl"):
            api.finished_jobs(SchemaVersion(MAX_TS))
            api.finished_jobs(SchemaVersion(0))
        else:
            api.read_key(b"k")

    # The request for tables that follows the one for databases gets the same answer.
    lists = ("/schema",)
    seeds = [
        path.encode() + b"\n" + json.dumps(answer).encode()
        for path, answer in chosen.items()
        if not path.startswith(lists)
    ]
    return Target(seeds, mutate, parse)


class _Answering(StatusApi):
    """Gives one answer to everything, and then no more."""

    def __init__(self, body: bytes) -> None:
        super().__init__("http://fuzz:1", SystemClock())
        self._body = body
        self._left = 3

    def _request(self, path: str, deadline_ms: int) -> tuple[int, bytes]:
        self._left -= 1
        return (200, self._body) if self._left >= 0 else (200, b"[]")


def _recorded() -> dict[str, Any]:
    document = json.loads(gzip.decompress(RECORDING.read_bytes()))
    return {path: answers[0] for path, answers in document["reads"][0]["answers"].items()}


def meta_keys(_: Path) -> Target:
    """A cluster of whose keys one holds something else than it should."""
    cluster = MetaCluster()
    cluster.step(CREATE_DATABASE, database=(1, "db"))
    begun = TidbSchemaSource(cluster, SystemClock(), 0).read(cluster.tso())
    cluster.step(CREATE_TABLE, [(1, 100, info(100, "t", "a", "b"))])
    cluster.step(ADD_COLUMN, [(1, 100, info(100, "t", "a", "b", "c!"))], ends=False)
    cluster.step(ADD_COLUMN, [(1, 100, info(100, "t", "a", "b", "c"))])
    cluster.raise_version()
    at_least = cluster.tso()
    values = {
        (key, n): write.value
        for key, writes in cluster.keys.items()
        for n, write in enumerate(writes)
        if write.value is not None
    }
    places = sorted(values)
    mutate_number = bytes_like([b"7"], JSON_WORDS)

    def mutate(rng: random.Random) -> bytes:
        at = rng.randrange(len(places))
        value = values[places[at]]
        if places[at][0] == SCHEMA_VERSION_KEY or rng.random() < 0.2:
            changed = mutate_number(rng)
        else:
            changed = json.dumps(changed_json(rng, json.loads(value))).encode()
        return bytes([at]) + changed

    def parse(data: bytes) -> SchemaHistory:
        changed = _OneChanged(cluster, *places[data[0] % len(places) if data else 0], data[1:])
        source = TidbSchemaSource(changed, SystemClock(), 0)
        source.read(at_least)
        history = source.read(at_least, begun)
        Lineage(history)
        return history

    seeds = [bytes([n]) + values[place] for n, place in enumerate(places)]
    return Target(seeds, mutate, parse)


class _OneChanged:
    """A cluster's keys, with another value in one place."""

    def __init__(self, cluster: MetaCluster, key: bytes, place: int, value: bytes) -> None:
        self._cluster, self._key, self._place, self._value = cluster, key, place, value
        self.list_databases = cluster.list_databases
        self.finished_jobs = cluster.finished_jobs

    def read_key(self, key: bytes) -> MetaKey:
        stored = self._cluster.read_key(key)
        if key != self._key:
            return stored
        writes = list(stored.writes)
        old = writes[self._place]
        writes[self._place] = type(old)(old.start_ts, old.commit_ts, self._value)
        return MetaKey(tuple(writes), stored.locked_ts)


def _texts(documents: Sequence[Any]) -> list[bytes]:
    return [json.dumps(document).encode() for document in documents]
