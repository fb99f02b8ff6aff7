from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WriteBinlogReq(_message.Message):
    __slots__ = ("clusterID", "payload")
    clusterID: int
    payload: bytes
    def __init__(self, clusterID: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class WriteBinlogResp(_message.Message):
    __slots__ = ("errmsg",)
    errmsg: str
    def __init__(self, errmsg: _Optional[str] = ...) -> None: ...

class PullBinlogReq(_message.Message):
    __slots__ = ("clusterID", "startFrom")
    clusterID: int
    startFrom: Pos
    def __init__(self, clusterID: _Optional[int] = ..., startFrom: _Optional[_Union[Pos, _Mapping]] = ...) -> None: ...

class PullBinlogResp(_message.Message):
    __slots__ = ("entity",)
    entity: Entity
    def __init__(self, entity: _Optional[_Union[Entity, _Mapping]] = ...) -> None: ...

class Pos(_message.Message):
    __slots__ = ("suffix", "offset")
    suffix: int
    offset: int
    def __init__(self, suffix: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class Meta(_message.Message):
    __slots__ = ("startTs", "commitTs")
    startTs: int
    commitTs: int
    def __init__(self, startTs: _Optional[int] = ..., commitTs: _Optional[int] = ...) -> None: ...

class Entity(_message.Message):
    __slots__ = ("pos", "meta", "payload", "checksum")
    pos: Pos
    meta: Meta
    payload: bytes
    checksum: bytes
    def __init__(self, pos: _Optional[_Union[Pos, _Mapping]] = ..., meta: _Optional[_Union[Meta, _Mapping]] = ..., payload: _Optional[bytes] = ..., checksum: _Optional[bytes] = ...) -> None: ...
