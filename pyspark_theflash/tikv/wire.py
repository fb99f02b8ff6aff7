"""The messages of enginepb, and of a region's record, as bytes, from and into values."""

from collections.abc import Iterable
from typing import Final

from pyspark_theflash.base.errors import CodecError, UnsupportedError
from pyspark_theflash.base.types import RegionEpoch, RegionID
from pyspark_theflash.tidb.protocol._generated.kvproto import (
    enginepb_pb2,
    metapb_pb2,
    raft_cmdpb_pb2,
    raft_serverpb_pb2,
    raw_enginepb_pb2,
)
from pyspark_theflash.tidb.protocol._generated.theflash.v1 import region_pb2
from pyspark_theflash.tidb.protocol.message import parse_message
from pyspark_theflash.tikv.command import (
    Admin,
    Applied,
    ChangePeers,
    CommitMerge,
    CompactLog,
    DeleteRange,
    IngestFile,
    NoChange,
    PrepareMerge,
    RaftCommand,
    RollbackMerge,
    SnapshotHead,
    SplitRegion,
)
from pyspark_theflash.tikv.region import (
    ApplyState,
    MergeState,
    Peer,
    PeerState,
    RaftRegion,
    RegionState,
)

SERVICE: Final = "enginepb.Engine"
APPLY_COMMAND_BATCH: Final = f"/{SERVICE}/ApplyCommandBatch"
APPLY_SNAPSHOT: Final = f"/{SERVICE}/ApplySnapshot"
_WITHOUT_EFFECT: Final = frozenset(
    {
        raft_cmdpb_pb2.TransferLeader,
        raft_cmdpb_pb2.ComputeHash,
        raft_cmdpb_pb2.VerifyHash,
        raft_cmdpb_pb2.PrepareFlashback,
        raft_cmdpb_pb2.FinishFlashback,
        raft_cmdpb_pb2.BatchSwitchWitness,
        raft_cmdpb_pb2.UpdateGcPeer,
    }
)


_PEER_STATES: Final = frozenset(state.value for state in PeerState)


# Commands.


def decode_commands(data: bytes) -> list[RaftCommand]:
    """A CommandRequestBatch.

    Raises:
        CodecError: the bytes are none.
        UnsupportedError: an admin command that TiKV has and this version does not know.
    """
    return [
        _command(message)
        for message in parse_message(raw_enginepb_pb2.CommandRequestBatch, data).requests
    ]


def _command(message: raw_enginepb_pb2.CommandRequest) -> RaftCommand:
    header = message.header
    command = RaftCommand(
        header.region_id,  # type: ignore[arg-type]
        header.index,
        header.term,
        message.requests[:],
        None,
        header.sync_log,
        header.destroy,
    )
    if asked := message.admin_request:
        where = f"region {command.region_id} index {command.index}"
        command.admin = _admin(asked, message.admin_response, where)
    return command


def _admin(request: bytes, response: bytes, where: str) -> Admin:
    asked = parse_message(raft_cmdpb_pb2.AdminRequest, request)
    done = parse_message(raft_cmdpb_pb2.AdminResponse, response)
    kind = asked.cmd_type
    if kind in _WITHOUT_EFFECT:
        return NoChange()
    if kind == raft_cmdpb_pb2.CompactLog:
        return CompactLog(asked.compact_log.compact_index, asked.compact_log.compact_term)
    if kind == raft_cmdpb_pb2.BatchSplit:
        return SplitRegion(tuple(map(_region, done.splits.regions)))
    if kind == raft_cmdpb_pb2.Split:
        return SplitRegion((_region(done.split.left), _region(done.split.right)))
    if kind == raft_cmdpb_pb2.ChangePeer:
        return ChangePeers(_region(done.change_peer.region))
    if kind == raft_cmdpb_pb2.ChangePeerV2:
        return ChangePeers(_region(done.change_peer_v2.region))
    if kind == raft_cmdpb_pb2.PrepareMerge:
        merge = asked.prepare_merge
        return PrepareMerge(merge.min_index, _region(merge.target))
    if kind == raft_cmdpb_pb2.CommitMerge:
        return CommitMerge(_region(asked.commit_merge.source), asked.commit_merge.commit)
    if kind == raft_cmdpb_pb2.RollbackMerge:
        return RollbackMerge()
    raise UnsupportedError(f"admin command {kind}", where)


def decode_other_request(data: bytes) -> DeleteRange | IngestFile | None:
    """A raft_cmdpb.Request that is neither a put nor a delete; None for one without effect.

    Raises `CodecError`.
    """
    message = parse_message(raft_cmdpb_pb2.Request, data)
    if message.cmd_type == raft_cmdpb_pb2.DeleteRange:
        found = message.delete_range
        return DeleteRange(found.cf or "default", found.start_key, found.end_key)
    if message.cmd_type == raft_cmdpb_pb2.IngestSST:
        sst = message.ingest_sst.sst
        return IngestFile(sst.uuid, sst.cf_name or "default", sst.range.start, sst.range.end)
    return None


def canonical_request(data: bytes) -> bytes:
    """A raft_cmdpb.Request with its fields in the order of their numbers, and no others.

    Raises `CodecError`.
    """
    message = parse_message(raft_cmdpb_pb2.Request, data)
    message.DiscardUnknownFields()
    return message.SerializeToString(deterministic=True)


def put_request(cf: str, key: bytes, value: bytes) -> bytes:
    """A raft_cmdpb.Request that puts a value; the default column family is called "default"."""
    put = raft_cmdpb_pb2.PutRequest(cf="" if cf == "default" else cf, key=key, value=value)
    return raft_cmdpb_pb2.Request(cmd_type=raft_cmdpb_pb2.Put, put=put).SerializeToString()


def encode_responses(answers: Iterable[Applied]) -> bytes:
    """A CommandResponseBatch."""
    batch = enginepb_pb2.CommandResponseBatch()
    for answer in answers:
        response = batch.responses.add()
        response.header.region_id = answer.region_id
        response.header.destroyed = answer.state is None
        if answer.state is not None:
            response.apply_state.CopyFrom(_apply_message(answer.state))
            response.applied_term = answer.state.applied_term
    return batch.SerializeToString()


def decode_responses(data: bytes) -> list[Applied]:
    """The inverse of `encode_responses`. Raises `CodecError`."""
    return [
        Applied(
            RegionID(each.header.region_id),
            None if each.header.destroyed else _applied(each.apply_state, each.applied_term),
        )
        for each in parse_message(enginepb_pb2.CommandResponseBatch, data).responses
    ]


# Snapshots.


def decode_snapshot_chunk(data: bytes) -> SnapshotHead | tuple[str, list[bytes]]:
    """A SnapshotRequest: what the snapshot is of, or a column family and KeyValue messages of it.

    Its checksum is that of a file of the sender's, so there is nothing here to compare it with.

    Raises `CodecError`.
    """
    message = parse_message(raw_enginepb_pb2.SnapshotRequest, data)
    if message.HasField("state"):
        state = message.state
        peer = _peer(state.peer) if state.peer.id else None
        # The term of a snapshot's last entry is only in what was cut off of the log before it.
        applied = _applied(state.apply_state, state.apply_state.truncated_state.term)
        return SnapshotHead(_region(state.region), applied, peer)
    if not message.HasField("data"):
        raise CodecError("snapshot", "a chunk that is empty")
    return message.data.cf or "default", list(message.data.data)


def encode_snapshot_done() -> bytes:
    """The answer to a snapshot that is durable."""
    return enginepb_pb2.SnapshotDone().SerializeToString()


# A region's record.


def encode_region_state(state: RegionState) -> bytes:
    """A RegionRecord."""
    record = region_pb2.RegionRecord(
        local_state=raft_serverpb_pb2.RegionLocalState(
            state=state.state.value,  # type: ignore[arg-type]
            region=_region_message(state.region),
        ),
        apply_state=_apply_message(state.applied),
        applied_term=state.applied.applied_term,
    )
    if state.peer is not None:
        record.peer.CopyFrom(_peer_message(state.peer))
    if state.merge is not None:
        merge = record.local_state.merge_state
        merge.min_index, merge.commit = state.merge.min_index, state.merge.commit
        merge.target.CopyFrom(_region_message(state.merge.target))
    return record.SerializeToString()


def decode_region_state(data: bytes) -> RegionState:
    """The inverse of `encode_region_state`. Raises `CodecError`."""
    record = parse_message(region_pb2.RegionRecord, data)
    local = record.local_state
    if local.state not in _PEER_STATES:
        raise CodecError("region record", f"no peer state {local.state}")
    merge = None
    if local.HasField("merge_state"):
        found = local.merge_state
        merge = MergeState(found.min_index, _region(found.target), found.commit)
    return RegionState(
        _region(local.region),
        _applied(record.apply_state, record.applied_term),
        _peer(record.peer) if record.HasField("peer") else None,
        PeerState(local.state),
        merge,
    )


def _applied(message: raft_serverpb_pb2.RaftApplyState, term: int) -> ApplyState:
    cut = message.truncated_state
    return ApplyState(message.applied_index, term, cut.index, cut.term)


def _apply_message(state: ApplyState) -> raft_serverpb_pb2.RaftApplyState:
    return raft_serverpb_pb2.RaftApplyState(
        applied_index=state.applied_index,
        truncated_state=raft_serverpb_pb2.RaftTruncatedState(
            index=state.truncated_index, term=state.truncated_term
        ),
    )


def _region(message: metapb_pb2.Region) -> RaftRegion:
    if not message.id:
        raise CodecError("region", "it has no id")
    epoch = RegionEpoch(message.region_epoch.conf_ver, message.region_epoch.version)
    return RaftRegion(
        RegionID(message.id),
        message.start_key,
        message.end_key,
        epoch,
        tuple(map(_peer, message.peers)),
    )


def _region_message(region: RaftRegion) -> metapb_pb2.Region:
    return metapb_pb2.Region(
        id=region.id,
        start_key=region.start,
        end_key=region.end,
        region_epoch=metapb_pb2.RegionEpoch(
            conf_ver=region.epoch.conf_ver, version=region.epoch.version
        ),
        peers=map(_peer_message, region.peers),
    )


def _peer(message: metapb_pb2.Peer) -> Peer:
    return Peer(message.id, message.store_id, message.role, message.is_witness)


def _peer_message(peer: Peer) -> metapb_pb2.Peer:
    return metapb_pb2.Peer(
        id=peer.id,
        store_id=peer.store_id,
        role=peer.role,  # type: ignore[arg-type]
        is_witness=peer.is_witness,
    )
