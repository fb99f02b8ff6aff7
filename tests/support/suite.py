"""The captured suite: 150 steps of SQL over every type and kind of DDL, with what TiDB sent.

It contains only the TableInfos after each DDL, none of the states in between; those are bridged as
for a live cluster that has collected them as garbage. `final_tables` is TiDB's answer at the end,
as plain JSON values of a MySQL client.
"""

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import SchemaVersion, TableID, TimeStamp
from pyspark_theflash.replication.source.event import Entity, EntityKind
from pyspark_theflash.replication.source.prewrite import parse_prewrite
from pyspark_theflash.replication.source.wire import decode_entities
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.schema.history import SchemaHistory, SchemaVersionAt, TableEvent
from pyspark_theflash.tidb.schema.lost import LostState, bridged
from pyspark_theflash.tidb.schema.model import parse_table_info
from tests.support.workloads import FIXTURES

if TYPE_CHECKING:
    from pathlib import Path

DATABASE = "bl"
_FOLDER = FIXTURES / "suite"
_ELSEWHERE = {"x2": ("bl2", "x")}
"""A table that is moved to the database later, and its database before: only one was captured."""


@dataclass(frozen=True)
class Step:
    """One or more statements, with the messages sent for them, and the tables after a DDL."""

    number: int
    payloads: tuple[bytes, ...]
    tables: tuple[Mapping[str, Any], ...] | None

    @cached_property
    def entities(self) -> Sequence[Entity]:
        return [e for n, p in enumerate(self.payloads) for e in decode_entities(p, "suite", n)]

    @property
    def commit_ts(self) -> TimeStamp:
        return max(e.commit_ts for e in self.entities)

    @property
    def schema_versions(self) -> Iterator[SchemaVersion]:
        for entity in self.entities:
            if entity.kind is EntityKind.PREWRITE and entity.payload:
                yield parse_prewrite(entity.payload).schema_version


def read_steps() -> list[Step]:
    """All steps for which TiDB sent something, in order."""
    steps = []
    with gzip.open(_FOLDER / "binlog.jsonl.gz", "rt") as lines:
        for line in lines:
            document = json.loads(line)
            payloads = tuple(bytes.fromhex(b["payload"]) for b in document["binlogs"])
            tables = document.get("schema_after")
            if payloads:
                steps.append(
                    Step(document["step"], payloads, None if tables is None else tuple(tables))
                )
    return steps


def read_statements() -> list[str]:
    """The statements of all steps, in order, some of which TiDB refuses."""
    with gzip.open(_FOLDER / "binlog.jsonl.gz", "rt") as lines:
        return [statement for line in lines for statement in json.loads(line)["sql"]]


class SuiteSchema:
    """The suite's schema history, as a source of it."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps

    def read(
        self, after: SchemaHistory | None = None, at_least: TimeStamp | None = None
    ) -> SchemaHistory:
        start_ts = TimeStamp(min(e.start_ts for e in self._steps[0].entities) - 1)
        events = list(self._events())
        gaps = [LostState(TimeStamp(e.ts - 1), e.db, e.table_id, 0) for e in events if e.name]
        events += bridged(events, gaps)
        return SchemaHistory(start_ts, self._steps[-1].commit_ts, events, self._versions())

    def outcome(self, primary: RawKey, start_ts: TimeStamp) -> None:
        """Return None: there is no TiKV."""

    def has_written(self, key: RawKey, start_ts: TimeStamp) -> bool | None:
        """Of rows, the suite has TiDB's answers only."""
        return None

    def had_row(self, key: RawKey, ts: TimeStamp) -> bool | None:
        """Of rows, the suite has TiDB's answers only."""
        return None

    def _events(self) -> Iterator[TableEvent]:
        before: dict[TableID, Mapping[str, Any]] = {}
        created_elsewhere = dict(self._elsewhere())
        for step in self._steps:
            if (entry := created_elsewhere.get(step.commit_ts)) is not None:
                db, info = entry
                yield TableEvent(
                    step.commit_ts, db, TableID(info["id"]), parse_table_info(db, info)
                )
            if step.tables is None:
                continue
            now = {TableID(info["id"]): info for info in step.tables}
            for table_id in before.keys() - now.keys():
                yield TableEvent(step.commit_ts, DATABASE, table_id, None)
            for table_id, info in now.items():
                if before.get(table_id) != info:
                    table = parse_table_info(DATABASE, info)
                    yield TableEvent(step.commit_ts, DATABASE, table_id, table)
            before = now

    def _elsewhere(self) -> Iterator[tuple[TimeStamp, tuple[str, Mapping[str, Any]]]]:
        first: dict[str, Mapping[str, Any]] = {}
        for step in self._steps:
            for info in step.tables or ():
                first.setdefault(info["name"]["O"], info)
        for name, (db, old_name) in _ELSEWHERE.items():
            created = next(
                step
                for step in self._steps
                if any(e.ddl and f"`{db}`.`{old_name}`" in e.ddl.query for e in step.entities)
            )
            yield created.commit_ts, (db, {**first[name], "name": {"O": old_name, "L": old_name}})

    def _versions(self) -> Iterator[SchemaVersionAt]:
        """Yield versions of DDLs: rows name that of the last DDL before, each DDL has its own."""
        changed: list[TimeStamp] = []
        for step in self._steps:
            if any(e.ddl for e in step.entities):
                changed.append(step.commit_ts)
            for version in step.schema_versions:
                for back, ts in enumerate(reversed(changed)):
                    yield SchemaVersionAt(ts, SchemaVersion(version - back))
                changed.clear()


class SuiteSource:
    """The suite's entities, in order of arrival."""

    position = None

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps

    def entities(self, after: str | None = None) -> Iterator[Entity]:
        return (entity for step in self._steps for entity in step.entities)


def final_tables() -> Mapping[str, Mapping[str, Any]]:
    """TiDB's answer at the end: table -> {cols, rows}."""
    path: Path = _FOLDER / "final_tables.json.gz"
    document: Mapping[str, Mapping[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))
    return document


def make_suite_store(path: "Path") -> "Path":
    """A new store that holds all of the suite."""
    fs, steps = LocalFileSystem(), read_steps()
    identity = registry.create(path, registry.MAGIC, fs)
    with closing(registry.open_engine(path, identity, fs, SystemClock())) as engine:
        writer = Writer(engine, SuiteSchema(steps))
        writer.run_once(SuiteSource(steps), until_ts=steps[-1].commit_ts)
    return path


def as_multiset(rows: Iterable[Iterable[Any]]) -> "Counter[tuple[Any, ...]]":
    """Rows of a client's values, or of our texts of them, in one form."""
    return Counter(tuple(map(_comparable, row)) for row in rows)


def _comparable(value: Any) -> Any:
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"])
    if value is None or isinstance(value, bytes):
        return value
    text = str(value)
    if "." in text and ":" in text:
        text = text.rstrip("0").rstrip(".")
    try:
        return float(text)
    except ValueError:
        return text
