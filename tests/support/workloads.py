"""The captured workloads: real binlogs, and TiDB's answers while they were written."""

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Engine
from pyspark_theflash.tidb.schema.file import FileSchema, read_schema_file
from pyspark_theflash.tidb.schema.history import SchemaHistory

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAMES = ("bank", "ddl", "tpcc", "tpch")


@dataclass(frozen=True)
class Answer:
    """TiDB's content of a table at a timestamp; `checksum` excludes `_tidb_rowid`."""

    snapshot_ts: TimeStamp
    table: str
    rows: int
    checksum: str
    checksum_with_rowid: str | None
    file: Path | None


@dataclass(frozen=True)
class Workload:
    """One captured workload."""

    name: str
    folder: Path
    end_ts: TimeStamp

    @property
    def binlog(self) -> Path:
        return self.folder / "binlog.bin.gz"

    @property
    def schema(self) -> Path:
        return self.folder / "schema.json.gz"

    @property
    def base(self) -> Path | None:
        folder = self.folder / "base"
        return folder if folder.is_dir() else None

    def writer_arguments(self, store: Path, source: Path | None = None) -> list[str]:
        """The writer's command line that replicates all of it."""
        base = ["--base", str(self.base)] if self.base else []
        return [
            str(store),
            *("--source", f"file:{source or self.binlog}"),
            *("--schema", f"file:{self.schema}"),
            *base,
            *("--once", "--until-ts", str(self.end_ts)),
        ]

    def answers(self) -> Iterator[Answer]:
        """TiDB's answers, by timestamp."""
        document = json.loads((self.folder / "truth" / "truth.json").read_text())
        for point in document["points"]:
            for entry in point["tables"]:
                yield self._answer(TimeStamp(point["ts"]), entry)

    def _answer(self, ts: TimeStamp, entry: dict[str, Any]) -> Answer:
        file = self.folder / "truth" / entry["file"] if "file" in entry else None
        return Answer(
            ts,
            f"{entry['db']}.{entry['table']}",
            entry["rows"],
            entry.get("checksum_without_rowid", entry["checksum"]),
            entry["checksum"] if "checksum_without_rowid" in entry else None,
            file if file and file.exists() else None,
        )


@cache
def workload(name: str) -> Workload:
    """The workload of that name."""
    folder = FIXTURES / name
    schema = json.loads(gzip.decompress((folder / "schema.json.gz").read_bytes()))
    return Workload(name, folder, TimeStamp(schema["end_ts"]))


@cache
def schema_of(name: str) -> SchemaHistory:
    """The schema of the workload of that name."""
    return read_schema_file(workload(name).schema)


def replicate(chosen: Workload, engine: Engine, source: Path | None = None) -> Writer:
    """Apply all of a workload to an engine; return the writer."""
    writer = Writer(engine, FileSchema(chosen.schema))
    if chosen.base:
        writer.load_base(chosen.base)
    writer.run_once(FileSource(source or chosen.binlog), until_ts=chosen.end_ts)
    return writer


def make_store(chosen: Workload, path: Path, source: Path | None = None) -> Path:
    """A new store that holds all of a workload."""
    fs = LocalFileSystem()
    engine = registry.open_engine(
        path, registry.create(path, registry.MAGIC, fs), fs, SystemClock()
    )
    try:
        replicate(chosen, engine, source)
    finally:
        engine.close()
    return path


def check_answers(store: Path, answers: Iterable[Answer]) -> int:
    """Assert that the store gives these answers; return their number."""
    compared = 0
    for snapshot_ts, group in groupby(answers, key=lambda answer: answer.snapshot_ts):
        with open_snapshot(store, snapshot_ts) as snapshot:
            for answer in group:
                digest = snapshot.digest(answer.table)
                assert (digest.rows, digest.hexdigest()) == (answer.rows, answer.checksum), answer
                compared += 1
    return compared
