from pyspark_theflash.tidb.protocol._generated.kvproto import import_sstpb_pb2 as _import_sstpb_pb2
from pyspark_theflash.tidb.protocol._generated.kvproto import metapb_pb2 as _metapb_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CmdType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    Invalid: _ClassVar[CmdType]
    Get: _ClassVar[CmdType]
    Put: _ClassVar[CmdType]
    Delete: _ClassVar[CmdType]
    Snap: _ClassVar[CmdType]
    Prewrite: _ClassVar[CmdType]
    DeleteRange: _ClassVar[CmdType]
    IngestSST: _ClassVar[CmdType]
    ReadIndex: _ClassVar[CmdType]

class AdminCmdType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    InvalidAdmin: _ClassVar[AdminCmdType]
    ChangePeer: _ClassVar[AdminCmdType]
    Split: _ClassVar[AdminCmdType]
    CompactLog: _ClassVar[AdminCmdType]
    TransferLeader: _ClassVar[AdminCmdType]
    ComputeHash: _ClassVar[AdminCmdType]
    VerifyHash: _ClassVar[AdminCmdType]
    PrepareMerge: _ClassVar[AdminCmdType]
    CommitMerge: _ClassVar[AdminCmdType]
    RollbackMerge: _ClassVar[AdminCmdType]
    BatchSplit: _ClassVar[AdminCmdType]
    ChangePeerV2: _ClassVar[AdminCmdType]
    PrepareFlashback: _ClassVar[AdminCmdType]
    FinishFlashback: _ClassVar[AdminCmdType]
    BatchSwitchWitness: _ClassVar[AdminCmdType]
    UpdateGcPeer: _ClassVar[AdminCmdType]
Invalid: CmdType
Get: CmdType
Put: CmdType
Delete: CmdType
Snap: CmdType
Prewrite: CmdType
DeleteRange: CmdType
IngestSST: CmdType
ReadIndex: CmdType
InvalidAdmin: AdminCmdType
ChangePeer: AdminCmdType
Split: AdminCmdType
CompactLog: AdminCmdType
TransferLeader: AdminCmdType
ComputeHash: AdminCmdType
VerifyHash: AdminCmdType
PrepareMerge: AdminCmdType
CommitMerge: AdminCmdType
RollbackMerge: AdminCmdType
BatchSplit: AdminCmdType
ChangePeerV2: AdminCmdType
PrepareFlashback: AdminCmdType
FinishFlashback: AdminCmdType
BatchSwitchWitness: AdminCmdType
UpdateGcPeer: AdminCmdType

class PutRequest(_message.Message):
    __slots__ = ("cf", "key", "value")
    cf: str
    key: bytes
    value: bytes
    def __init__(self, cf: _Optional[str] = ..., key: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("cf", "key")
    cf: str
    key: bytes
    def __init__(self, cf: _Optional[str] = ..., key: _Optional[bytes] = ...) -> None: ...

class DeleteRangeRequest(_message.Message):
    __slots__ = ("cf", "start_key", "end_key", "notify_only")
    cf: str
    start_key: bytes
    end_key: bytes
    notify_only: bool
    def __init__(self, cf: _Optional[str] = ..., start_key: _Optional[bytes] = ..., end_key: _Optional[bytes] = ..., notify_only: _Optional[bool] = ...) -> None: ...

class IngestSSTRequest(_message.Message):
    __slots__ = ("sst",)
    sst: _import_sstpb_pb2.SSTMeta
    def __init__(self, sst: _Optional[_Union[_import_sstpb_pb2.SSTMeta, _Mapping]] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("cmd_type", "put", "delete", "delete_range", "ingest_sst")
    cmd_type: CmdType
    put: PutRequest
    delete: DeleteRequest
    delete_range: DeleteRangeRequest
    ingest_sst: IngestSSTRequest
    def __init__(self, cmd_type: _Optional[_Union[CmdType, str]] = ..., put: _Optional[_Union[PutRequest, _Mapping]] = ..., delete: _Optional[_Union[DeleteRequest, _Mapping]] = ..., delete_range: _Optional[_Union[DeleteRangeRequest, _Mapping]] = ..., ingest_sst: _Optional[_Union[IngestSSTRequest, _Mapping]] = ...) -> None: ...

class ChangePeerResponse(_message.Message):
    __slots__ = ("region",)
    region: _metapb_pb2.Region
    def __init__(self, region: _Optional[_Union[_metapb_pb2.Region, _Mapping]] = ...) -> None: ...

class ChangePeerV2Response(_message.Message):
    __slots__ = ("region",)
    region: _metapb_pb2.Region
    def __init__(self, region: _Optional[_Union[_metapb_pb2.Region, _Mapping]] = ...) -> None: ...

class SplitResponse(_message.Message):
    __slots__ = ("left", "right")
    left: _metapb_pb2.Region
    right: _metapb_pb2.Region
    def __init__(self, left: _Optional[_Union[_metapb_pb2.Region, _Mapping]] = ..., right: _Optional[_Union[_metapb_pb2.Region, _Mapping]] = ...) -> None: ...

class BatchSplitResponse(_message.Message):
    __slots__ = ("regions",)
    regions: _containers.RepeatedCompositeFieldContainer[_metapb_pb2.Region]
    def __init__(self, regions: _Optional[_Iterable[_Union[_metapb_pb2.Region, _Mapping]]] = ...) -> None: ...

class CompactLogRequest(_message.Message):
    __slots__ = ("compact_index", "compact_term")
    compact_index: int
    compact_term: int
    def __init__(self, compact_index: _Optional[int] = ..., compact_term: _Optional[int] = ...) -> None: ...

class PrepareMergeRequest(_message.Message):
    __slots__ = ("min_index", "target")
    min_index: int
    target: _metapb_pb2.Region
    def __init__(self, min_index: _Optional[int] = ..., target: _Optional[_Union[_metapb_pb2.Region, _Mapping]] = ...) -> None: ...

class CommitMergeRequest(_message.Message):
    __slots__ = ("source", "commit")
    source: _metapb_pb2.Region
    commit: int
    def __init__(self, source: _Optional[_Union[_metapb_pb2.Region, _Mapping]] = ..., commit: _Optional[int] = ...) -> None: ...

class AdminRequest(_message.Message):
    __slots__ = ("cmd_type", "compact_log", "prepare_merge", "commit_merge")
    cmd_type: AdminCmdType
    compact_log: CompactLogRequest
    prepare_merge: PrepareMergeRequest
    commit_merge: CommitMergeRequest
    def __init__(self, cmd_type: _Optional[_Union[AdminCmdType, str]] = ..., compact_log: _Optional[_Union[CompactLogRequest, _Mapping]] = ..., prepare_merge: _Optional[_Union[PrepareMergeRequest, _Mapping]] = ..., commit_merge: _Optional[_Union[CommitMergeRequest, _Mapping]] = ...) -> None: ...

class AdminResponse(_message.Message):
    __slots__ = ("change_peer", "split", "splits", "change_peer_v2")
    change_peer: ChangePeerResponse
    split: SplitResponse
    splits: BatchSplitResponse
    change_peer_v2: ChangePeerV2Response
    def __init__(self, change_peer: _Optional[_Union[ChangePeerResponse, _Mapping]] = ..., split: _Optional[_Union[SplitResponse, _Mapping]] = ..., splits: _Optional[_Union[BatchSplitResponse, _Mapping]] = ..., change_peer_v2: _Optional[_Union[ChangePeerV2Response, _Mapping]] = ...) -> None: ...
