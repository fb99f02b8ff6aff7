from pyspark_theflash.tidb.protocol._generated.kvproto import metapb_pb2 as _metapb_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PeerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    Normal: _ClassVar[PeerState]
    Applying: _ClassVar[PeerState]
    Tombstone: _ClassVar[PeerState]
    Merging: _ClassVar[PeerState]
    Unavailable: _ClassVar[PeerState]
Normal: PeerState
Applying: PeerState
Tombstone: PeerState
Merging: PeerState
Unavailable: PeerState

class RaftTruncatedState(_message.Message):
    __slots__ = ("index", "term")
    index: int
    term: int
    def __init__(self, index: _Optional[int] = ..., term: _Optional[int] = ...) -> None: ...

class KeyValue(_message.Message):
    __slots__ = ("key", "value")
    key: bytes
    value: bytes
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class RaftApplyState(_message.Message):
    __slots__ = ("applied_index", "truncated_state")
    applied_index: int
    truncated_state: RaftTruncatedState
    def __init__(self, applied_index: _Optional[int] = ..., truncated_state: _Optional[_Union[RaftTruncatedState, _Mapping]] = ...) -> None: ...

class MergeState(_message.Message):
    __slots__ = ("min_index", "target", "commit")
    min_index: int
    target: _metapb_pb2.Region
    commit: int
    def __init__(self, min_index: _Optional[int] = ..., target: _Optional[_Union[_metapb_pb2.Region, _Mapping]] = ..., commit: _Optional[int] = ...) -> None: ...

class RegionLocalState(_message.Message):
    __slots__ = ("state", "region", "merge_state")
    state: PeerState
    region: _metapb_pb2.Region
    merge_state: MergeState
    def __init__(self, state: _Optional[_Union[PeerState, str]] = ..., region: _Optional[_Union[_metapb_pb2.Region, _Mapping]] = ..., merge_state: _Optional[_Union[MergeState, _Mapping]] = ...) -> None: ...
