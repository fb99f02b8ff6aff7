from pyspark_theflash.tidb.protocol._generated.kvproto import metapb_pb2 as _metapb_pb2
from pyspark_theflash.tidb.protocol._generated.kvproto import raft_serverpb_pb2 as _raft_serverpb_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RegionRecord(_message.Message):
    __slots__ = ("local_state", "apply_state", "applied_term", "peer")
    local_state: _raft_serverpb_pb2.RegionLocalState
    apply_state: _raft_serverpb_pb2.RaftApplyState
    applied_term: int
    peer: _metapb_pb2.Peer
    def __init__(self, local_state: _Optional[_Union[_raft_serverpb_pb2.RegionLocalState, _Mapping]] = ..., apply_state: _Optional[_Union[_raft_serverpb_pb2.RaftApplyState, _Mapping]] = ..., applied_term: _Optional[int] = ..., peer: _Optional[_Union[_metapb_pb2.Peer, _Mapping]] = ...) -> None: ...
