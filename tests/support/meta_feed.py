"""The meta keys of a model cluster as the changes of a feed."""

import json
from typing import Any

from pyspark_theflash.tidb.codec.bytes import encode_bytes
from pyspark_theflash.tidb.codec.number import encode_int, encode_uint
from pyspark_theflash.tidb.schema.meta_key import JOB_HISTORY, FinishedJob, hash_prefix
from tests.support.change_log import Change, ChangeLog
from tests.support.meta_cluster import MetaCluster


def noise(log: ChangeLog, ts: int) -> None:
    """Write keys that are no part of the schema: allocated ids, and a list of jobs."""
    table_ids = hash_prefix(b"DB:1") + encode_bytes(b"TID:11")
    jobs = b"m" + encode_bytes(b"DDLJobList") + encode_uint(ord("l")) + encode_int(7)
    for key in (table_ids, jobs, b"mBootstrapKey"):
        log.changes.append(Change(ts, ts - 1, key, b"17"))


def fill(log: ChangeLog, cluster: MetaCluster, *, jobs_after: int = 5) -> None:
    """Set the log to the cluster's changes. A job is stored `jobs_after` its last diff."""
    log.changes = [
        Change(write.commit_ts, write.start_ts, key, write.value)
        for key, writes in cluster.keys.items()
        for write in writes
    ]
    diffs = {
        c.commit_ts: json.loads(c.value) for c in log.changes if c.key[1:6] == b"Diff:" and c.value
    }
    ends = {diff["version"]: ts for ts, diff in diffs.items()}
    for number, job in enumerate(cluster.jobs):
        ts = ends[job.version] + jobs_after
        key = hash_prefix(JOB_HISTORY) + encode_bytes(encode_int(number))
        log.changes.append(Change(ts, ts - 1, key, json.dumps(_job(job)).encode()))
    for ts in list(ends.values()):
        noise(log, ts + 1)
    log.changes.sort(key=lambda change: change.commit_ts)


def _job(job: FinishedJob) -> dict[str, Any]:
    session = job.session
    reorg = (
        None
        if session is None
        else {
            "location": {"name": session.zone, "offset": session.offset_s},
            "sql_mode": session.sql_mode,
        }
    )
    return {
        "schema_id": job.database_id,
        "schema_name": job.database,
        "start_ts": 0 if session is None else session.from_ms << 18,
        "reorg_meta": reorg,
        "binlog": {
            "SchemaVersion": job.version,
            "MultipleTableInfos": [{**info, "id": i} for i, info in job.tables.items()],
        },
    }
