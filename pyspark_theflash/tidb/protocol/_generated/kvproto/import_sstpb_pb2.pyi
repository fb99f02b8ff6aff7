from pyspark_theflash.tidb.protocol._generated.kvproto import metapb_pb2 as _metapb_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Range(_message.Message):
    __slots__ = ("start", "end")
    start: bytes
    end: bytes
    def __init__(self, start: _Optional[bytes] = ..., end: _Optional[bytes] = ...) -> None: ...

class SSTMeta(_message.Message):
    __slots__ = ("uuid", "range", "crc32", "length", "cf_name", "region_id", "region_epoch", "end_key_exclusive")
    uuid: bytes
    range: Range
    crc32: int
    length: int
    cf_name: str
    region_id: int
    region_epoch: _metapb_pb2.RegionEpoch
    end_key_exclusive: bool
    def __init__(self, uuid: _Optional[bytes] = ..., range: _Optional[_Union[Range, _Mapping]] = ..., crc32: _Optional[int] = ..., length: _Optional[int] = ..., cf_name: _Optional[str] = ..., region_id: _Optional[int] = ..., region_epoch: _Optional[_Union[_metapb_pb2.RegionEpoch, _Mapping]] = ..., end_key_exclusive: _Optional[bool] = ...) -> None: ...
