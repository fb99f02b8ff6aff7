"""A TiKV for tests: transactions in, raft commands of regions out.

It stores the three column families as dictionaries by encoded keys, and appends each change as an
entry to the log of the region that has the key. Regions can be split and merged;
a learner receives their logs, and snapshots of any time. Nothing here uses the package's
code for applying, matching or reading; `read` evaluates snapshots from the column families alone.
"""

import bisect
import random
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pyspark_theflash.tidb.protocol._generated.kvproto import (
    enginepb_pb2,
    metapb_pb2,
    raft_cmdpb_pb2,
)
from tests.support.kv_tap import Call, Message
from tests.support.percolator_records import LockRecord, uvarint, write_record

SHORT = 255
PUT, DELETE, LOCK, INSERT, CHECK_NOT_EXISTS = 0, 1, 2, 4, 6
KINDS = {PUT: "P", INSERT: "P", DELETE: "D", LOCK: "L"}
STORE, LEARNER = 1, 77
Change = tuple[str, bytes, bytes | None]
"""Column family, key, and the value; None if it is deleted."""


def encoded(raw: bytes) -> bytes:
    """Encode a key as memcomparable."""
    out = b""
    for at in range(0, len(raw) + 1, 8):
        group = raw[at : at + 8]
        out += group + b"\0" * (8 - len(group)) + bytes([255 - (8 - len(group))])
    return out


def at_ts(key: bytes, ts: int) -> bytes:
    return key + struct.pack(">Q", 2**64 - 1 - ts)


def ts_of(key: bytes) -> int:
    return 2**64 - 1 - int(struct.unpack(">Q", key[-8:])[0])


@dataclass
class LockState:
    """A lock that is held."""

    record: LockRecord

    @property
    def start_ts(self) -> int:
        return self.record.start_ts


@dataclass
class FakeRegion:
    id: int
    start: bytes
    end: bytes
    version: int = 1
    conf_ver: int = 1
    index: int = 5
    peers: list[tuple[int, int]] = field(default_factory=list)

    def message(self) -> metapb_pb2.Region:
        epoch = metapb_pb2.RegionEpoch(conf_ver=self.conf_ver, version=self.version)
        roles = [metapb_pb2.Voter, metapb_pb2.Learner]
        peers = [metapb_pb2.Peer(id=i, store_id=s, role=roles[s == LEARNER]) for i, s in self.peers]
        return metapb_pb2.Region(
            id=self.id, start_key=self.start, end_key=self.end, region_epoch=epoch, peers=peers
        )

    def contains(self, key: bytes) -> bool:
        return self.start <= key and (not self.end or key < self.end)


class FakeRaftCluster:
    """See the module. `log` has (region id, index, serialised command), in the order of all."""

    def __init__(self, first_key: bytes = b"") -> None:
        self.cfs: dict[str, dict[bytes, bytes]] = {"default": {}, "lock": {}, "write": {}}
        self.held: dict[bytes, LockState] = {}
        self.writes: dict[bytes, list[tuple[int, str, int]]] = {}
        """Encoded key -> (commit_ts, kind, start_ts), in order of arrival."""
        self.log: list[tuple[int, int, bytes]] = []
        self.admins: set[int] = set()
        """The positions of admin commands in the log, which are not reordered."""
        self.files: dict[bytes, list[tuple[bytes, bytes]]] = {}
        self._ids = iter(range(1000, 10**9))
        first = FakeRegion(1, first_key, b"", peers=[(11, STORE), (12, LEARNER)])
        self.regions = {1: first}
        self._starts = [(first.start, 1)]

    # -- regions

    def region_of(self, key: bytes) -> FakeRegion:
        at = bisect.bisect_right(self._starts, (key, 2**62)) - 1
        return self.regions[self._starts[at][1]]

    def _reorder(self) -> None:
        self._starts = sorted((r.start, r.id) for r in self.regions.values())

    def _entry(self, region: FakeRegion, **content: Any) -> enginepb_pb2.CommandRequest:
        region.index += 1
        command = enginepb_pb2.CommandRequest(**content)
        command.header.region_id, command.header.index = region.id, region.index
        command.header.term = 6
        return command

    def _append(self, region: FakeRegion, command: enginepb_pb2.CommandRequest) -> None:
        if command.HasField("admin_request"):
            self.admins.add(len(self.log))
        self.log.append((region.id, command.header.index, command.SerializeToString()))

    def _new_region(self, start: bytes, end: bytes, like: FakeRegion) -> FakeRegion:
        peers = [(next(self._ids), store) for _, store in like.peers]
        return FakeRegion(next(self._ids), start, end, like.version, like.conf_ver, 5, peers)

    def split(self, keys: Sequence[bytes], *, right_derive: bool = True) -> None:
        """Split a region before each of these keys, none of which is its first."""
        region = self.region_of(keys[0])
        region.version += len(keys)
        bounds = [region.start, *sorted(keys), region.end]
        parts = list(pairwise(bounds))
        own = parts.pop(-1 if right_derive else 0)
        children = [self._new_region(start, end, region) for start, end in parts]
        region.start, region.end = own
        for child in children:
            self.regions[child.id] = child
        self._reorder()
        admin = raft_cmdpb_pb2.AdminRequest(cmd_type=raft_cmdpb_pb2.BatchSplit)
        done = raft_cmdpb_pb2.AdminResponse()
        regions = sorted([region, *children], key=lambda r: r.start)
        done.splits.regions.extend(r.message() for r in regions)
        self._append(region, self._entry(region, admin_request=admin, admin_response=done))

    def merge(self, source: FakeRegion, target: FakeRegion, *, roll_back: bool = False) -> None:
        """Merge a region into a neighbour, or prepare the merge and roll it back."""
        prepare = raft_cmdpb_pb2.AdminRequest(cmd_type=raft_cmdpb_pb2.PrepareMerge)
        prepare.prepare_merge.min_index = source.index
        prepare.prepare_merge.target.CopyFrom(target.message())
        self._append(source, self._entry(source, admin_request=prepare))
        source.version += 1
        source.conf_ver += 1
        commit = source.index
        if roll_back:
            back = raft_cmdpb_pb2.AdminRequest(cmd_type=raft_cmdpb_pb2.RollbackMerge)
            self._append(source, self._entry(source, admin_request=back))
            source.version += 1
            return
        admin = raft_cmdpb_pb2.AdminRequest(cmd_type=raft_cmdpb_pb2.CommitMerge)
        admin.commit_merge.source.CopyFrom(source.message())
        admin.commit_merge.commit = commit
        self._append(target, self._entry(target, admin_request=admin))
        if target.end == source.start and target.end:
            target.end = source.end
        else:
            target.start = source.start
        target.version = max(target.version, source.version) + 1
        del self.regions[source.id]
        self._reorder()

    def change_nothing(self, region: FakeRegion, rng: random.Random) -> None:
        """An admin command that affects no rows."""
        kind = rng.choice(
            ["CompactLog", "TransferLeader", "ComputeHash", "VerifyHash", "ChangePeer"]
        )
        admin = raft_cmdpb_pb2.AdminRequest(cmd_type=getattr(raft_cmdpb_pb2, kind))
        done = raft_cmdpb_pb2.AdminResponse()
        if kind == "CompactLog":
            admin.compact_log.compact_index = max(5, region.index - 3)
            admin.compact_log.compact_term = 6
        if kind == "ChangePeer":
            region.conf_ver += 1
            region.peers.append((next(self._ids), next(self._ids)))
            done.change_peer.region.CopyFrom(region.message())
        self._append(region, self._entry(region, admin_request=admin, admin_response=done))

    def snapshot(self, region: FakeRegion, chunk_pairs: int = 7) -> Iterator[bytes]:
        """Return a snapshot of a region, in chunks."""
        head = enginepb_pb2.SnapshotRequest()
        head.state.region.CopyFrom(region.message())
        learner = next((p for p in region.peers if p[1] == LEARNER), None)
        if learner:
            head.state.peer.id, head.state.peer.store_id = learner
        head.state.apply_state.applied_index = region.index
        head.state.apply_state.truncated_state.index = region.index
        head.state.apply_state.truncated_state.term = 6
        yield head.SerializeToString()
        for cf in ("default", "lock", "write"):
            pairs = sorted((k, v) for k, v in self.cfs[cf].items() if region.contains(k))
            for at in range(0, len(pairs), chunk_pairs):
                chunk = enginepb_pb2.SnapshotRequest()
                chunk.data.cf = cf
                for key, value in pairs[at : at + chunk_pairs]:
                    chunk.data.data.add(key=key, value=value)
                yield chunk.SerializeToString()

    def destroy(self, region: FakeRegion) -> bytes:
        """A command that destroys the learner's replica; it is in no log."""
        header = enginepb_pb2.CommandRequestHeader(region_id=region.id, destroy=True)
        return enginepb_pb2.CommandRequest(header=header).SerializeToString()

    # -- column families

    def write(self, changes: Iterable[Change]) -> None:
        """Change the column families, with one command per region."""
        by_region: dict[int, list[Change]] = {}
        for change in changes:
            by_region.setdefault(self.region_of(change[1]).id, []).append(change)
        for region_id, own in by_region.items():
            region = self.regions[region_id]
            command = self._entry(region)
            for cf, key, value in own:
                self._set(cf, key, value)
                request = command.requests.add()
                if value is None:
                    request.cmd_type = raft_cmdpb_pb2.Delete
                    request.delete.cf, request.delete.key = _wire_cf(cf), key
                else:
                    request.cmd_type = raft_cmdpb_pb2.Put
                    request.put.cf, request.put.key = _wire_cf(cf), key
                    request.put.value = value
            self._append(region, command)

    def _set(self, cf: str, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.cfs[cf].pop(key, None)
        else:
            self.cfs[cf][key] = value

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Delete a range of one region in all column families."""
        region = self.region_of(start)
        command = self._entry(region)
        for cf in self.cfs:
            for key in [k for k in self.cfs[cf] if start <= k < end]:
                del self.cfs[cf][key]
            request = command.requests.add(cmd_type=raft_cmdpb_pb2.DeleteRange)
            request.delete_range.cf = _wire_cf(cf)
            request.delete_range.start_key, request.delete_range.end_key = start, end
        self._append(region, command)

    def ingest(self, cf: str, pairs: list[tuple[bytes, bytes]], uuid: bytes) -> None:
        """Ingest a bulk load's file into the region that has its keys."""
        self.files[uuid] = pairs
        for key, value in pairs:
            self._set(cf, key, value)
        region = self.region_of(pairs[0][0])
        command = self._entry(region)
        request = command.requests.add(cmd_type=raft_cmdpb_pb2.IngestSST)
        request.ingest_sst.sst.uuid, request.ingest_sst.sst.cf_name = uuid, cf
        self._append(region, command)

    # -- transactions

    def prewrite(
        self,
        mutations: Sequence[tuple[int, bytes, bytes]],
        primary: bytes,
        start_ts: int,
        **fields: Any,
    ) -> list[Change]:
        """The changes that lock raw keys for (op, key, value)."""
        changes: list[Change] = []
        for op, raw, value in mutations:
            if op == CHECK_NOT_EXISTS:
                continue
            key = encoded(raw)
            self._check_prewrite(key, start_ts, fields.get("for_update_ts", 0))
            own = dict(fields)
            if raw != primary and own.get("secondaries") is not None:
                own["secondaries"] = []
            record = LockRecord(KINDS[op], primary, start_ts, **own)
            if record.kind == "P":
                if len(value) <= SHORT:
                    record.short_value = value
                else:
                    changes.append(("default", at_ts(key, start_ts), value))
            changes.append(self._hold(key, record))
        return changes

    def _check_prewrite(self, key: bytes, start_ts: int, for_update_ts: int) -> None:
        held = self.held.get(key)
        # Calls for pessimistic locks were not captured in order, so there may be such a lock.
        if held and held.start_ts != start_ts and held.record.kind != "S":
            raise AssertionError(f"{key.hex()} is locked by {held.start_ts}, not {start_ts}")
        for commit_ts, kind, own in self.writes.get(key, []):
            if kind in "PD" and own != start_ts and not for_update_ts and commit_ts > start_ts:
                raise AssertionError(f"{key.hex()}: write conflict {commit_ts} > {start_ts}")

    def _hold(self, key: bytes, record: LockRecord) -> Change:
        self.held[key] = LockState(record)
        return ("lock", key, record.encode())

    def _release(self, key: bytes) -> Change:
        del self.held[key]
        return ("lock", key, None)

    def _write(self, key: bytes, ts: int, kind: str, start_ts: int, **fields: Any) -> Change:
        self.writes.setdefault(key, []).append((ts, kind, start_ts))
        return ("write", at_ts(key, ts), write_record(kind, start_ts, **fields))

    def commit(self, keys: Iterable[bytes], start_ts: int, commit_ts: int) -> list[Change]:
        """The changes that commit raw keys; those that are committed already stay."""
        changes: list[Change] = []
        for raw in keys:
            key = encoded(raw)
            held = self.held.get(key)
            if held is None or held.start_ts != start_ts:
                ended = [w for w in self.writes.get(key, []) if w[2] == start_ts and w[1] != "R"]
                assert ended, f"commit of {key.hex()} which is not locked"
                continue
            if held.record.kind == "S":
                # Never prewritten: TiKV commits it as a lock.
                changes.append(self._write(key, commit_ts, "L", start_ts))
            else:
                fields: dict[str, Any] = {"short_value": held.record.short_value}
                if commit_ts in held.record.rollback_ts:
                    fields["overlapped_rollback"] = True
                changes.append(self._write(key, commit_ts, held.record.kind, start_ts, **fields))
            changes.append(self._release(key))
        return changes

    def roll_back(
        self, keys: Iterable[bytes], start_ts: int, *, protected: bool = False
    ) -> list[Change]:
        """The changes that roll raw keys back, locked or not."""
        changes: list[Change] = []
        for raw in keys:
            key = encoded(raw)
            held = self.held.get(key)
            if held and held.start_ts == start_ts:
                if held.record.kind == "P" and held.record.short_value is None:
                    changes.append(("default", at_ts(key, start_ts), None))
                changes.append(self._release(key))
            writes = self.writes.get(key, [])
            if any(own == start_ts for _, _, own in writes):
                continue
            same = next((w for w in writes if w[0] == start_ts and w[1] in "PDL"), None)
            if same is None:
                fields = {"short_value": b"p"} if protected else {}
                changes.append(self._write(key, start_ts, "R", start_ts, **fields))
            elif protected:
                changes.append(self._overlap(key, same))
        return changes

    def _overlap(self, key: bytes, commit: tuple[int, str, int]) -> Change:
        """Rewrite a commit that a rollback overlaps."""
        ts, kind, start_ts = commit
        above = [w[0] for w in self.writes[key] if w[0] > ts and w[1] in "PD"]
        old = self.cfs["write"][at_ts(key, ts)]
        if kind in "PD":
            body = old[1 + len(uvarint(start_ts)) :]
            short = body[2:] if body[:1] == b"v" else None
            new = write_record(
                kind,
                start_ts,
                short_value=short,
                overlapped_rollback=True,
                gc_fence=min(above, default=0),
            )
        else:
            new = write_record(kind, start_ts, overlapped_rollback=True)
        return ("write", at_ts(key, ts), new)

    def collect(self, safe_point: int) -> list[Change]:
        """The changes of a garbage collection that goes through raft."""
        changes: list[Change] = []
        for key, writes in self.writes.items():
            newest = max((w for w in writes if w[0] <= safe_point and w[1] in "PD"), default=None)
            gone = [w for w in writes if w[0] <= safe_point and (w != newest or w[1] == "D")]
            for ts, kind, start_ts in gone:
                changes.append(("write", at_ts(key, ts), None))
                if kind == "P" and at_ts(key, start_ts) in self.cfs["default"]:
                    changes.append(("default", at_ts(key, start_ts), None))
            self.writes[key] = [w for w in writes if w not in gone]
        return changes

    # -- captured calls

    def call(self, call: Call) -> None:
        """Apply the effect of a captured call."""
        handler = getattr(self, f"_on_{call.rpc.lower()}", None)
        if handler is not None:
            self.write(handler(call.request, call.answer))

    def _on_kvprewrite(self, request: Message, answer: Message) -> list[Change]:
        if answer.many(2) or answer.many(1):
            return []
        mutations = [(m.number(1), m.bytes(2), m.bytes(3)) for m in request.messages(2)]
        start_ts, one_pc = request.number(4), answer.number(4)
        if one_pc:
            return self._one_phase(mutations, start_ts, one_pc)
        is_async = bool(request.number(11)) and answer.number(3)
        return self.prewrite(
            mutations,
            request.bytes(3),
            start_ts,
            ttl=request.number(5),
            txn_size=request.number(8),
            for_update_ts=request.number(9),
            min_commit_ts=answer.number(3) if is_async else request.number(10),
            secondaries=request.many(12) if is_async else None,
        )

    def _one_phase(
        self, mutations: Sequence[tuple[int, bytes, bytes]], start_ts: int, commit_ts: int
    ) -> list[Change]:
        changes: list[Change] = []
        for op, raw, value in mutations:
            key = encoded(raw)
            if op == CHECK_NOT_EXISTS:
                continue
            self._check_prewrite(key, start_ts, 1)
            if key in self.held and self.held[key].start_ts == start_ts:
                changes.append(self._release(key))
            short = value if KINDS[op] == "P" and len(value) <= SHORT else None
            if KINDS[op] == "P" and short is None:
                changes.append(("default", at_ts(key, start_ts), value))
            changes.append(self._write(key, commit_ts, KINDS[op], start_ts, short_value=short))
        return changes

    def _on_kvcommit(self, request: Message, answer: Message) -> list[Change]:
        if answer.many(2) or answer.many(1):
            return []
        return self.commit(request.many(3), request.number(2), request.number(4))

    def _on_kvpessimisticlock(self, request: Message, answer: Message) -> list[Change]:
        if answer.many(2) or answer.many(1):
            return []
        changes = []
        for mutation in request.messages(2):
            key = encoded(mutation.bytes(2))
            if key not in self.held:
                record = LockRecord("S", request.bytes(3), request.number(4), request.number(5))
                record.for_update_ts = request.number(6)
                changes.append(self._hold(key, record))
        return changes

    def _on_kvpessimisticrollback(self, request: Message, answer: Message) -> list[Change]:
        keys = (encoded(raw) for raw in request.many(4))
        return [
            self._release(key)
            for key in keys
            if key in self.held
            and self.held[key].record.kind == "S"
            and self.held[key].start_ts == request.number(2)
        ]

    def _on_kvbatchrollback(self, request: Message, answer: Message) -> list[Change]:
        if answer.many(2) or answer.many(1):
            return []
        return self.roll_back(request.many(3), request.number(2))

    def _on_kvresolvelock(self, request: Message, answer: Message) -> list[Change]:
        start_ts, commit_ts = request.number(2), request.number(3)
        ends = {m.number(1): m.number(2) for m in request.messages(4)} or {start_ts: commit_ts}
        changes: list[Change] = []
        for start, end in ends.items():
            raws = request.many(5)
            wanted = {encoded(raw): raw for raw in raws}
            for key, held in list(self.held.items()):
                if held.start_ts != start or (raws and key not in wanted):
                    continue
                raw = wanted.get(key, decoded(key))
                if end:
                    changes += self.commit([raw], start, end)
                else:
                    changes += self.roll_back([raw], start)
        return changes

    def _on_kvchecktxnstatus(self, request: Message, answer: Message) -> list[Change]:
        raw, lock_ts, action = request.bytes(2), request.number(3), answer.number(5)
        held = self.held.get(encoded(raw))
        if action == 1:
            return self.roll_back([raw], lock_ts, protected=True)
        if action == 2:
            return self.roll_back([raw], lock_ts, protected=True)
        if action == 3 and held and held.start_ts == lock_ts:
            # A reader of the newest version (at 2**64 - 1) passes by without pushing it.
            pushed_to = (request.number(4) + 1) % 2**64
            held.record.min_commit_ts = max(held.record.min_commit_ts, pushed_to)
            return [("lock", encoded(raw), held.record.encode())]
        if action == 4 and held and held.start_ts == lock_ts:
            return [self._release(encoded(raw))]
        return []

    def _on_kvchecksecondarylocks(self, request: Message, answer: Message) -> list[Change]:
        start_ts = request.number(3)
        missing = [
            raw
            for raw in request.many(2)
            if encoded(raw) not in self.held or self.held[encoded(raw)].start_ts != start_ts
        ]
        return self.roll_back(missing, start_ts, protected=True)

    # -- snapshots

    def read(self, prefix: bytes, ts: int) -> dict[bytes, bytes]:
        """Return the rows with a key prefix at a timestamp, ignoring locks: raw key -> row."""
        rows = {}
        for key, writes in self.writes.items():
            raw = decoded(key)
            if not raw.startswith(prefix):
                continue
            newest = max((w for w in writes if w[0] <= ts and w[1] in "PD"), default=None)
            if newest is None or newest[1] == "D":
                continue
            record = self.cfs["write"][at_ts(key, newest[0])]
            rest = record[1 + len(uvarint(newest[2])) :]
            if rest[:1] == b"v":
                rows[raw] = rest[2 : 2 + rest[1]]
            else:
                rows[raw] = self.cfs["default"][at_ts(key, newest[2])]
        return rows


def decoded(key: bytes) -> bytes:
    out = b""
    for at in range(0, len(key), 9):
        out += key[at : at + 8 - (255 - key[at + 8])]
    return out


def _wire_cf(cf: str) -> str:
    return "" if cf == "default" else cf


def batch(entries: Iterable[bytes]) -> bytes:
    """A CommandRequestBatch of serialised commands."""
    return b"".join(b"\x0a" + uvarint(len(entry)) + entry for entry in entries)
