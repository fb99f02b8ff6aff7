"""Messages of enginepb and raft_cmdpb, and the record of a region's state."""

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
    """Decode a CommandRequestBatch.

    Raises:
        CodecError: The bytes are not a CommandRequestBatch.
        UnsupportedError: An admin command is not supported.
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
    if admin := message.admin_request:
        where = f"region {command.region_id} index {command.index}"
        command.admin = _admin(admin, message.admin_response, where)
    return command


def _admin(request_bytes: bytes, response_bytes: bytes, where: str) -> Admin:
    request = parse_message(raft_cmdpb_pb2.AdminRequest, request_bytes)
    response = parse_message(raft_cmdpb_pb2.AdminResponse, response_bytes)
    kind = request.cmd_type
    if kind in _WITHOUT_EFFECT:
        return NoChange()
    if kind == raft_cmdpb_pb2.CompactLog:
        return CompactLog(request.compact_log.compact_index, request.compact_log.compact_term)
    if kind == raft_cmdpb_pb2.BatchSplit:
        return SplitRegion(tuple(map(_region, response.splits.regions)))
    if kind == raft_cmdpb_pb2.Split:
        return SplitRegion((_region(response.split.left), _region(response.split.right)))
    if kind == raft_cmdpb_pb2.ChangePeer:
        return ChangePeers(_region(response.change_peer.region))
    if kind == raft_cmdpb_pb2.ChangePeerV2:
        return ChangePeers(_region(response.change_peer_v2.region))
    if kind == raft_cmdpb_pb2.PrepareMerge:
        merge = request.prepare_merge
        return PrepareMerge(merge.min_index, _region(merge.target))
    if kind == raft_cmdpb_pb2.CommitMerge:
        return CommitMerge(_region(request.commit_merge.source), request.commit_merge.commit)
    if kind == raft_cmdpb_pb2.RollbackMerge:
        return RollbackMerge()
    raise UnsupportedError(f"admin command {kind}", where)


def decode_other_request(data: bytes) -> DeleteRange | IngestFile | None:
    """Decode a raft_cmdpb.Request other than a put or delete; None if it has no effect.

    Raises `CodecError`.
    """
    message = parse_message(raft_cmdpb_pb2.Request, data)
    if message.cmd_type == raft_cmdpb_pb2.DeleteRange:
        deleted = message.delete_range
        return DeleteRange(deleted.cf or "default", deleted.start_key, deleted.end_key)
    if message.cmd_type == raft_cmdpb_pb2.IngestSST:
        sst = message.ingest_sst.sst
        return IngestFile(sst.uuid, sst.cf_name or "default", sst.range.start, sst.range.end)
    return None


def canonical_request(data: bytes) -> bytes:
    """Re-encode a raft_cmdpb.Request with fields in the order of their numbers.

    Unknown fields are dropped. Raises `CodecError`.
    """
    message = parse_message(raft_cmdpb_pb2.Request, data)
    message.DiscardUnknownFields()
    return message.SerializeToString(deterministic=True)


def put_request(cf: str, key: bytes, value: bytes) -> bytes:
    """Encode a raft_cmdpb.Request that puts a value into a column family."""
    put = raft_cmdpb_pb2.PutRequest(cf="" if cf == "default" else cf, key=key, value=value)
    return raft_cmdpb_pb2.Request(cmd_type=raft_cmdpb_pb2.Put, put=put).SerializeToString()


def encode_responses(regions: Iterable[Applied]) -> bytes:
    """Encode a CommandResponseBatch."""
    batch = enginepb_pb2.CommandResponseBatch()
    for applied in regions:
        response = batch.responses.add()
        response.header.region_id = applied.region_id
        response.header.destroyed = applied.state is None
        if applied.state is not None:
            response.apply_state.CopyFrom(_apply_message(applied.state))
            response.applied_term = applied.state.applied_term
    return batch.SerializeToString()


# Snapshots.


def decode_snapshot_chunk(data: bytes) -> SnapshotHead | tuple[str, list[bytes]]:
    """Decode a SnapshotRequest: the header, or a column family with KeyValue messages.

    The checksum in the message is that of a file of the sender, so it is not verified. Raises
    `CodecError`.
    """
    message = parse_message(raw_enginepb_pb2.SnapshotRequest, data)
    if message.HasField("state"):
        state = message.state
        peer = _peer(state.peer) if state.peer.id else None
        # The message contains the term of the snapshot's last entry only as the truncated term.
        applied = _applied(state.apply_state, state.apply_state.truncated_state.term)
        return SnapshotHead(_region(state.region), applied, peer)
    if not message.HasField("data"):
        raise CodecError("snapshot", "the chunk is empty")
    return message.data.cf or "default", list(message.data.data)


def encode_snapshot_done() -> bytes:
    """Encode the response to a snapshot, sent when it is durable."""
    return enginepb_pb2.SnapshotDone().SerializeToString()


# A region's record.


def encode_region_state(state: RegionState) -> bytes:
    """Encode a RegionRecord."""
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
    """Decode a RegionRecord. Raises `CodecError`."""
    record = parse_message(region_pb2.RegionRecord, data)
    local = record.local_state
    if local.state not in _PEER_STATES:
        raise CodecError("region record", f"unknown peer state {local.state}")
    merge = None
    if local.HasField("merge_state"):
        state = local.merge_state
        merge = MergeState(state.min_index, _region(state.target), state.commit)
    return RegionState(
        _region(local.region),
        _applied(record.apply_state, record.applied_term),
        _peer(record.peer) if record.HasField("peer") else None,
        PeerState(local.state),
        merge,
    )


def _applied(message: raft_serverpb_pb2.RaftApplyState, term: int) -> ApplyState:
    truncated = message.truncated_state
    return ApplyState(message.applied_index, term, truncated.index, truncated.term)


def _apply_message(state: ApplyState) -> raft_serverpb_pb2.RaftApplyState:
    return raft_serverpb_pb2.RaftApplyState(
        applied_index=state.applied_index,
        truncated_state=raft_serverpb_pb2.RaftTruncatedState(
            index=state.truncated_index, term=state.truncated_term
        ),
    )


def _region(message: metapb_pb2.Region) -> RaftRegion:
    if not message.id:
        raise CodecError("region", "the id is missing")
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
