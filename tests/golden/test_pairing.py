"""Scripts of pairing: prewrites, commits and rollbacks of a binlog matched to transactions.

    streams      begin with several pumps instead of one
    base         begin with a store that can be read from oldest_ts on
    prewrite     add a prewrite; its content is `value`
    commit       add a commit
    rollback     add a rollback
    heartbeat    add a message of start_ts == commit_ts, which reports the progress of its pump
    settle       pass the outcome of a transaction that TiKV reports; without `ts`, a rollback
    complete     declare the input complete up to a timestamp
    publish      take the resolved transactions and add them to the ledger, as a writer does
    forget       raise the oldest timestamp that can be read, up to which the ledger forgets
    restart      begin again with the records that a writer keeps
    pending      list transactions that wait for their other half or are not published yet

Every other command prints resolved_ts, the timestamp up to which no commit can be missing.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.pairing.ledger import LedgerEntry, TransactionLedger
from pyspark_theflash.replication.pairing.pairing import Pairing
from pyspark_theflash.replication.pairing.pending import PendingTransaction
from pyspark_theflash.replication.source.event import Entity, EntityKind
from pyspark_theflash.testing.script import check_script
from tests.support.golden_scripts import script_paths


class PairingScript:
    """A pairing with the ledger of its writer."""

    def __init__(self, _folder: Path) -> None:
        self._ledger, self._oldest_ts = TransactionLedger(), TimeStamp(0)
        self._pairing = Pairing(self._ledger)

    def close(self) -> None:
        pass

    def do_streams(self, count: str) -> list[str]:
        self._pairing = Pairing(self._ledger, streams=[TimeStamp(0)] * int(count))
        return self._resolved()

    def do_base(self, oldest_ts: str) -> list[str]:
        self._oldest_ts = TimeStamp(int(oldest_ts))
        self._pairing = Pairing(self._ledger, oldest_ts=self._oldest_ts)
        return self._resolved()

    def do_prewrite(self, start: str, value: str = "v", stream: str = "0") -> list[str]:
        return self._add(EntityKind.PREWRITE, start, "0", stream, value)

    def do_commit(self, start: str, ts: str, stream: str = "0") -> list[str]:
        return self._add(EntityKind.COMMIT, start, ts, stream)

    def do_rollback(self, start: str, stream: str = "0") -> list[str]:
        return self._add(EntityKind.ROLLBACK, start, "0", stream)

    def do_heartbeat(self, ts: str, stream: str = "0") -> list[str]:
        return self._add(EntityKind.COMMIT, ts, ts, stream)

    def do_settle(self, start: str, ts: str = "0") -> list[str]:
        self._pairing.settle(TimeStamp(int(start)), TimeStamp(int(ts)))
        return self._resolved()

    def do_complete(self, ts: str) -> list[str]:
        self._pairing.vouch(TimeStamp(int(ts)))
        return self._resolved()

    def do_publish(self) -> Iterator[str]:
        up_to = self._pairing.resolved_ts
        taken = self._pairing.take_resolved(up_to)
        self._ledger.add(map(LedgerEntry.committed, taken))
        self._ledger.add(map(LedgerEntry.rolled_back, self._pairing.take_rolled_back()))
        for each in taken:
            yield f"{each.start_ts} committed at {each.commit_ts}: {each.payload.decode()}"
        yield f"published up to {up_to}"

    def do_forget(self, oldest_ts: str) -> None:
        self._oldest_ts = TimeStamp(int(oldest_ts))
        self._pairing.forget(self._oldest_ts)
        self._ledger.forget(self._oldest_ts)

    def do_restart(self) -> list[str]:
        before = self._pairing
        self._pairing = Pairing(
            self._ledger,
            resolved_ts=before.resolved_ts,
            streams=[before.max_commit_ts],
            oldest_ts=self._oldest_ts,
            pending=[PendingTransaction.from_bytes(each.to_bytes()) for each in before.pending()],
        )
        return self._resolved()

    def do_pending(self) -> list[str]:
        waiting = sorted(self._pairing.pending(), key=lambda each: each.start_ts)
        return [_described(each) for each in waiting] or ["nothing"]

    def _add(
        self, kind: EntityKind, start: str, ts: str, stream: str, value: str = ""
    ) -> list[str]:
        times = TimeStamp(int(start)), TimeStamp(int(ts))
        entity = Entity(kind, *times, value.encode(), None, "binlog", 0, stream=int(stream))
        self._pairing.add(entity)
        return self._resolved()

    def _resolved(self) -> list[str]:
        return [f"resolved_ts {self._pairing.resolved_ts}"]


def _described(pending: PendingTransaction) -> str:
    if pending.payload is None:
        return f"{pending.start_ts} committed at {pending.commit_ts}, waits for its prewrite"
    if pending.commit_ts:
        return f"{pending.start_ts} committed at {pending.commit_ts}, not published"
    return f"{pending.start_ts} waits for its commit, which is above {pending.hold_ts}"


@pytest.mark.parametrize("path", script_paths("pairing"), ids=lambda path: path.stem)
def test_script(path: Path, tmp_path: Path) -> None:
    check_script(path, PairingScript(tmp_path))
