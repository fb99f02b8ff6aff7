from pyspark_theflash.tidb.protocol._generated.kvproto import enginepb_pb2 as _enginepb_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CommandRequest(_message.Message):
    __slots__ = ("header", "requests", "admin_request", "admin_response")
    header: _enginepb_pb2.CommandRequestHeader
    requests: _containers.RepeatedScalarFieldContainer[bytes]
    admin_request: bytes
    admin_response: bytes
    def __init__(self, header: _Optional[_Union[_enginepb_pb2.CommandRequestHeader, _Mapping]] = ..., requests: _Optional[_Iterable[bytes]] = ..., admin_request: _Optional[bytes] = ..., admin_response: _Optional[bytes] = ...) -> None: ...

class CommandRequestBatch(_message.Message):
    __slots__ = ("requests",)
    requests: _containers.RepeatedCompositeFieldContainer[CommandRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[CommandRequest, _Mapping]]] = ...) -> None: ...

class SnapshotData(_message.Message):
    __slots__ = ("cf", "data")
    cf: str
    data: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, cf: _Optional[str] = ..., data: _Optional[_Iterable[bytes]] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ("state", "data")
    state: _enginepb_pb2.SnapshotState
    data: SnapshotData
    def __init__(self, state: _Optional[_Union[_enginepb_pb2.SnapshotState, _Mapping]] = ..., data: _Optional[_Union[SnapshotData, _Mapping]] = ...) -> None: ...
