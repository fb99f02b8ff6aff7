"""A captured binlog from which commits or rollbacks are lost, and a TiKV with their outcomes."""

import gzip
import random
from dataclasses import dataclass

from pyspark_theflash.tidb.protocol._generated.tipb import binlog_pb2
from tests.support.binlog_writer import frame, split_frames
from tests.support.fake_tikv import FakeTiKV
from tests.support.percolator import Record
from tests.support.workloads import Workload

_HEAD, _TAIL = 12, 4


@dataclass(frozen=True)
class Lost:
    """The content of a lost message; `commit_ts` is 0 for a rollback."""

    start_ts: int
    commit_ts: int
    primary: bytes

    @property
    def end(self) -> list[str]:
        """The options of `theflash resolve` for it."""
        return ["--committed", str(self.commit_ts)] if self.commit_ts else ["--rolled-back"]


def messages_of(chosen: Workload) -> list[bytes]:
    """All messages of a captured binlog."""
    frames = split_frames(gzip.decompress(chosen.binlog.read_bytes()))
    return [each[_HEAD:-_TAIL] for each in frames]


def without(
    messages: list[bytes], rng: random.Random, count: int, *, ddl: bool = False, after: int = 0
) -> tuple[list[bytes], list[Lost]]:
    """Remove some commits or rollbacks of transactions that began after a timestamp, by start_ts.

    With `ddl`, only those of DDL are removed, otherwise only others.
    """
    decoded = [binlog_pb2.Binlog.FromString(message) for message in messages]
    ends = [
        at
        for at, binlog in enumerate(decoded)
        if binlog.tp != binlog_pb2.Prewrite
        and bool(binlog.ddl_job_id) == ddl
        and binlog.start_ts > after
    ]
    lost = set(rng.sample(ends, count))
    kept = [message for at, message in enumerate(messages) if at not in lost]
    removed = [
        Lost(decoded[at].start_ts, decoded[at].commit_ts, decoded[at].prewrite_key) for at in lost
    ]
    return kept, sorted(removed, key=lambda each: each.start_ts)


def binlog_file(messages: list[bytes]) -> bytes:
    """A binlog file of these messages."""
    return b"".join(map(frame, messages))


def tell(tikv: FakeTiKV, lost: list[Lost]) -> None:
    """Write the outcomes of transactions to their primary keys in TiKV, beside other records."""
    with tikv.cluster.mutex:
        for each in lost:
            # A transaction may have only locked its primary key.
            kind = ("PDL"[each.start_ts % 3]) if each.commit_ts else "R"
            records = tikv.cluster.tikv.records.setdefault(each.primary, [])
            value = b"new" if kind == "P" else b""
            records += [
                Record("P", each.start_ts - 9, each.start_ts - 8, b"old"),
                Record(kind, each.start_ts, each.commit_ts or each.start_ts, value),
                Record("R", each.start_ts + 1, each.start_ts + 1),
            ]
            records.sort(key=lambda record: record.commit_ts)
