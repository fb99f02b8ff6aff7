"""Appending to Delta tables and verifying what was committed.

Each commit of a writer has Delta's transaction identifier: the application is the store, the
version is the writer's token (its number among the store's writers) and the number of the batch.
Delta commits a version only if it is above the last one, in the same step as the rows, so

    a batch that is written again        is committed once
    a writer that has been replaced      commits nothing any more, once its successor has written

Delta ignores such a write without an error. `userMetadata` therefore names each commit, and the
table's log shows which have landed. Delta's log is read through Spark's file systems.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from pyspark_theflash.base.errors import EngineError
from pyspark_theflash.base.types import FencingToken

_Java: TypeAlias = Any
"""An object of the JVM."""
_BATCHES: Final = 1 << 32
_METADATA: Final = "spark.databricks.delta.commitInfo.userMetadata"
_COMMIT: Final = re.compile(r"[0-9]{20}\.json")


@dataclass(frozen=True, slots=True)
class BatchId:
    """A batch: the token of its writer, and its number among this writer's batches."""

    store_id: str
    token: FencingToken
    number: int

    @property
    def version(self) -> int:
        """The version in Delta's transaction identifier."""
        return self.token * _BATCHES + self.number

    @property
    def tag(self) -> str:
        """The commit's `userMetadata`."""
        return f"theflash {self.store_id} {self.token} {self.number}"


def quoted(path: str) -> str:
    """Return a Delta table's name in SQL."""
    return "delta.`{}`".format(path.replace("`", "``"))


def append(
    rows: DataFrame,
    path: str,
    batch: BatchId,
    *,
    partitioned_by: Sequence[str] = (),
    replaces: bool = False,
) -> None:
    """Append rows in one commit with the batch's identifier, or replace all rows.

    `commits_after` shows whether it was committed.

    Raises:
        EngineError: Spark failed, or a task did.
    """
    writer = rows.write.format("delta").mode("overwrite" if replaces else "append")
    writer = writer.option("overwriteSchema" if replaces else "mergeSchema", "true")
    writer = writer.option("txnAppId", batch.store_id).option("txnVersion", batch.version)
    if partitioned_by:
        writer = writer.partitionBy(*partitioned_by)
    try:
        writer.option("userMetadata", batch.tag).save(path)
    except (Py4JJavaError, PySparkException) as error:
        # Delta has committed another writer's batch first; the log shows whose.
        if "ConcurrentTransactionException" not in str(error):
            raise EngineError(path, _reason(str(error))) from error


def _reason(text: str) -> str:
    """Return the line of an error of Spark that says most: that of a failed Python task, if any."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("pyspark_theflash.")]
    return (ours or lines or ["no reason given"])[0]


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit of a Delta table. `restored` is the version that a RESTORE has restored."""

    version: int
    tag: str
    restored: int | None

    @property
    def token(self) -> FencingToken:
        """The token of the writer; 0 if it is unknown."""
        parts = self.tag.split(" ")
        return FencingToken(int(parts[2]) if len(parts) == 4 and parts[2].isdigit() else 0)


def newest_version(spark: SparkSession, path: str) -> int:
    """Return the version of a Delta table's last commit."""
    fs, log = _log(spark, path)
    names = [status.getPath().getName() for status in fs.listStatus(log)]
    return max(int(name.partition(".")[0]) for name in names if _COMMIT.fullmatch(name))


def commits_after(spark: SparkSession, path: str, version: int) -> list[Commit]:
    """Return the commits after a version, oldest first, from Delta's log."""
    jvm: Any = spark._jvm
    fs, log = _log(spark, path)
    commits: list[Commit] = []
    while True:
        version += 1
        file = jvm.org.apache.hadoop.fs.Path(log, f"{version:020d}.json")
        if not fs.exists(file):
            return commits
        stream = fs.open(file)
        try:
            lines = jvm.java.io.BufferedReader(jvm.java.io.InputStreamReader(stream, "UTF-8"))
            commits.append(_commit(version, lines))
        finally:
            stream.close()


def _commit(version: int, lines: _Java) -> Commit:
    while (line := lines.readLine()) is not None:
        info = json.loads(line).get("commitInfo")
        if info is not None:
            parameters = info.get("operationParameters", {})
            restored = parameters.get("version") if info.get("operation") == "RESTORE" else None
            tag = info.get("userMetadata") or ""
            return Commit(version, tag, None if restored is None else int(restored))
    return Commit(version, "", None)


def _log(spark: SparkSession, path: str) -> tuple[Any, Any]:
    """Return the file system and the path of a Delta table's log."""
    jvm: Any = spark._jvm
    session: Any = spark._jsparkSession
    log = jvm.org.apache.hadoop.fs.Path(f"{path}/_delta_log")
    return log.getFileSystem(session.sessionState().newHadoopConf()), log


def restore(spark: SparkSession, path: str, version: int) -> None:
    """Make the content of a Delta table that of an earlier version, by another commit."""
    spark.sql(f"RESTORE TABLE {quoted(path)} TO VERSION AS OF {version}")


def optimize(spark: SparkSession, path: str, batch: BatchId) -> None:
    """Merge the small files of a Delta table."""
    spark.conf.set(_METADATA, batch.tag)
    try:
        spark.sql(f"OPTIMIZE {quoted(path)}").collect()
    finally:
        spark.conf.unset(_METADATA)


def read(spark: SparkSession, path: str, version: int | None = None) -> DataFrame:
    """Return the rows of a Delta table at a version, the newest if None."""
    reader = spark.read.format("delta")
    if version is not None:
        reader = reader.option("versionAsOf", version)
    return reader.load(path)


def exists(spark: SparkSession, path: str) -> bool:
    """Return whether there is a Delta table at a path, with any of Spark's file systems."""
    fs, log = _log(spark, path)
    return bool(fs.exists(log))
