"""A client that writes to TiKV as TiDB does and may stop at any stage, also by being killed.

    python -m tests.support.kv_writer PD STAGE TTL_MS KEY KEY...

swaps the values of keys (hex) up to a stage, prints the start_ts, and waits to be killed.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from google.protobuf.message import Message

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.cluster.tikv.wire.call import Answer, region_error_from
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.protocol._generated.kvproto import kvrpcpb_pb2

STAGES: Final = (
    "all prewritten",
    "primary committed",
    "primary missing",
    "large",
    "async, all prewritten",
    "async, secondary missing",
)
_TIMEOUT_MS: Final = 20_000
_TRIES: Final = 20
_CLOCK: Final = SystemClock()


class WriteRefused(Exception):
    """TiKV's errors for keys."""


class KvWriter:
    """Percolator's steps, one at a time. Methods raise `WriteRefused`."""

    def __init__(self, client: TiKVClient) -> None:
        self.client = client

    def prewrite(
        self,
        start_ts: TimeStamp,
        primary: RawKey,
        values: Mapping[RawKey, bytes | None],
        *,
        ttl_ms: int,
        min_commit_ts: int = 0,
        secondaries: Sequence[RawKey] | None = None,
    ) -> None:
        def request(keys: Sequence[RawKey]) -> Message:
            mutations = [
                kvrpcpb_pb2.Mutation(
                    op=kvrpcpb_pb2.Op.Del if values[key] is None else kvrpcpb_pb2.Op.Put,
                    key=key,
                    value=values[key] or b"",
                )
                for key in keys
            ]
            return kvrpcpb_pb2.PrewriteRequest(
                mutations=mutations,
                primary_lock=primary,
                start_version=start_ts,
                lock_ttl=ttl_ms,
                txn_size=len(values),
                min_commit_ts=min_commit_ts,
                use_async_commit=secondaries is not None,
                secondaries=secondaries if primary in keys else None,
            )

        def decode(_: int, data: bytes) -> Answer[bool]:
            answer = kvrpcpb_pb2.PrewriteResponse.FromString(data)
            if answer.HasField("region_error"):
                return Answer(None, region_error_from(answer.region_error))
            if answer.errors:
                raise WriteRefused(str(answer.errors))
            return Answer(True)

        self._ask(list(values), "KvPrewrite", request, decode)

    def commit(self, start_ts: TimeStamp, commit_ts: TimeStamp, keys: Sequence[RawKey]) -> None:
        def request(group: Sequence[RawKey]) -> Message:
            return kvrpcpb_pb2.CommitRequest(
                start_version=start_ts, commit_version=commit_ts, keys=group
            )

        def decode(_: int, data: bytes) -> Answer[bool]:
            answer = kvrpcpb_pb2.CommitResponse.FromString(data)
            if answer.HasField("region_error"):
                return Answer(None, region_error_from(answer.region_error))
            if answer.error.ByteSize():
                raise WriteRefused(str(answer.error))
            return Answer(True)

        self._ask(keys, "KvCommit", request, decode)

    def swap(self, keys: Sequence[RawKey], stage: str, ttl_ms: int) -> TimeStamp:
        """Swap the values of keys up to a stage; return the start_ts."""
        deadline = Deadline(_CLOCK, _TIMEOUT_MS)
        start_ts = self.client.now(deadline)
        swapped = [self.client.get(key, start_ts, deadline) for key in (*keys[1:], keys[0])]
        values = dict(zip(keys, swapped, strict=True))
        primary, *others = keys
        rest = {key: values[key] for key in others}
        first = {primary: values[primary]}
        min_commit_ts = start_ts + 1 if stage == "large" or stage.startswith("async") else 0
        secondaries = others if stage.startswith("async") else None
        if stage != "primary missing":
            self.prewrite(
                start_ts,
                primary,
                first,
                ttl_ms=ttl_ms,
                min_commit_ts=min_commit_ts,
                secondaries=secondaries,
            )
        if stage != "async, secondary missing":
            self.prewrite(
                start_ts,
                primary,
                rest,
                ttl_ms=ttl_ms,
                min_commit_ts=min_commit_ts,
                secondaries=None if secondaries is None else [],
            )
        if stage == "primary committed":
            self.commit(start_ts, self.client.now(deadline), [primary])
        return start_ts

    def _ask(
        self,
        keys: Sequence[RawKey],
        method: str,
        request: Callable[[Sequence[RawKey]], Message],
        decode: Callable[[int, bytes], Answer[bool]],
    ) -> None:
        deadline = Deadline(_CLOCK, _TIMEOUT_MS)
        self.client._router.call_groups(keys, method, request, decode, deadline)


def dies_at(stage: str, pd_address: str, keys: Sequence[RawKey], ttl_ms: int) -> int | None:
    """Swap values up to a stage in a process that is killed there; return the start_ts.

    None if TiKV rejected its writes because of conflicts.
    """
    arguments = [pd_address, stage, str(ttl_ms), *(key.hex() for key in keys)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.kv_writer", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    )
    with process:
        said = process.stdout.readline() if process.stdout else ""
        process.kill()
    return int(said) if said.strip().isdigit() else None


def _say(writer: KvWriter, keys: Sequence[RawKey], stage: str, ttl_ms: int) -> str:
    for _ in range(_TRIES):
        with suppress(WriteRefused):
            return str(writer.swap(keys, stage, ttl_ms))
        _CLOCK.sleep_ms(20)
    return "refused"


def main() -> None:
    """See the module."""
    pd_address, stage, ttl_ms, *keys = sys.argv[1:]
    with ExitStack() as undo:
        pd = undo.enter_context(PDClient([pd_address], clock=_CLOCK))
        client = undo.enter_context(TiKVClient(pd, clock=_CLOCK, policy=LockPolicy.RESOLVE))
        raw = [RawKey(bytes.fromhex(key)) for key in keys]
        said = _say(KvWriter(client), raw, stage, int(ttl_ms))
        sys.stdout.write(said + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
