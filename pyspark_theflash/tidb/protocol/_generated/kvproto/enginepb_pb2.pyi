from pyspark_theflash.tidb.protocol._generated.kvproto import metapb_pb2 as _metapb_pb2
from pyspark_theflash.tidb.protocol._generated.kvproto import raft_cmdpb_pb2 as _raft_cmdpb_pb2
from pyspark_theflash.tidb.protocol._generated.kvproto import raft_serverpb_pb2 as _raft_serverpb_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CommandRequestHeader(_message.Message):
    __slots__ = ("region_id", "index", "term", "sync_log", "destroy", "context")
    region_id: int
    index: int
    term: int
    sync_log: bool
    destroy: bool
    context: bytes
    def __init__(self, region_id: _Optional[int] = ..., index: _Optional[int] = ..., term: _Optional[int] = ..., sync_log: _Optional[bool] = ..., destroy: _Optional[bool] = ..., context: _Optional[bytes] = ...) -> None: ...

class CommandRequest(_message.Message):
    __slots__ = ("header", "requests", "admin_request", "admin_response")
    header: CommandRequestHeader
    requests: _containers.RepeatedCompositeFieldContainer[_raft_cmdpb_pb2.Request]
    admin_request: _raft_cmdpb_pb2.AdminRequest
    admin_response: _raft_cmdpb_pb2.AdminResponse
    def __init__(self, header: _Optional[_Union[CommandRequestHeader, _Mapping]] = ..., requests: _Optional[_Iterable[_Union[_raft_cmdpb_pb2.Request, _Mapping]]] = ..., admin_request: _Optional[_Union[_raft_cmdpb_pb2.AdminRequest, _Mapping]] = ..., admin_response: _Optional[_Union[_raft_cmdpb_pb2.AdminResponse, _Mapping]] = ...) -> None: ...

class CommandRequestBatch(_message.Message):
    __slots__ = ("requests",)
    requests: _containers.RepeatedCompositeFieldContainer[CommandRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[CommandRequest, _Mapping]]] = ...) -> None: ...

class CommandResponseHeader(_message.Message):
    __slots__ = ("region_id", "destroyed")
    region_id: int
    destroyed: bool
    def __init__(self, region_id: _Optional[int] = ..., destroyed: _Optional[bool] = ...) -> None: ...

class CommandResponse(_message.Message):
    __slots__ = ("header", "apply_state", "applied_term")
    header: CommandResponseHeader
    apply_state: _raft_serverpb_pb2.RaftApplyState
    applied_term: int
    def __init__(self, header: _Optional[_Union[CommandResponseHeader, _Mapping]] = ..., apply_state: _Optional[_Union[_raft_serverpb_pb2.RaftApplyState, _Mapping]] = ..., applied_term: _Optional[int] = ...) -> None: ...

class CommandResponseBatch(_message.Message):
    __slots__ = ("responses",)
    responses: _containers.RepeatedCompositeFieldContainer[CommandResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[CommandResponse, _Mapping]]] = ...) -> None: ...

class SnapshotState(_message.Message):
    __slots__ = ("region", "peer", "apply_state")
    region: _metapb_pb2.Region
    peer: _metapb_pb2.Peer
    apply_state: _raft_serverpb_pb2.RaftApplyState
    def __init__(self, region: _Optional[_Union[_metapb_pb2.Region, _Mapping]] = ..., peer: _Optional[_Union[_metapb_pb2.Peer, _Mapping]] = ..., apply_state: _Optional[_Union[_raft_serverpb_pb2.RaftApplyState, _Mapping]] = ...) -> None: ...

class SnapshotData(_message.Message):
    __slots__ = ("cf", "checksum", "data")
    cf: str
    checksum: int
    data: _containers.RepeatedCompositeFieldContainer[_raft_serverpb_pb2.KeyValue]
    def __init__(self, cf: _Optional[str] = ..., checksum: _Optional[int] = ..., data: _Optional[_Iterable[_Union[_raft_serverpb_pb2.KeyValue, _Mapping]]] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ("state", "data")
    state: SnapshotState
    data: SnapshotData
    def __init__(self, state: _Optional[_Union[SnapshotState, _Mapping]] = ..., data: _Optional[_Union[SnapshotData, _Mapping]] = ...) -> None: ...

class SnapshotDone(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
