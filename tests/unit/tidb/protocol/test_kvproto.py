"""The copies of kvproto's messages have its names, numbers and types."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from pyspark_theflash.tidb.protocol._generated.kvproto import (
    enginepb_pb2,
    errorpb_pb2,
    import_sstpb_pb2,
    kvrpcpb_pb2,
    metapb_pb2,
    raft_cmdpb_pb2,
    raft_serverpb_pb2,
    raw_enginepb_pb2,
)
from pyspark_theflash.tidb.protocol._generated.pd import pdpb_pb2

GOLDEN = json.loads((Path(__file__).parents[3] / "golden/kvproto/fields.json").read_text())
SCALARS = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
}
# An enum by its number, as the copy may have fewer values.
AS_NUMBERS = {"pdpb.Error.type": "int32"}


def type_name(field: FieldDescriptor) -> str:
    kind = field.message_type or field.enum_type
    name = kind.full_name.rpartition(".")[2] if kind else SCALARS[field.type]
    return ("repeated " if field.is_repeated else "") + name


def named(module: object) -> Iterator[tuple[str, list[object]]]:
    file = module.DESCRIPTOR  # type: ignore[attr-defined]
    for message in file.message_types_by_name.values():
        for field in message.fields:
            yield field.full_name, [field.number, type_name(field)]
    for enum in file.enum_types_by_name.values():
        for value in enum.values:
            yield f"{enum.full_name}.{value.name}", [value.number, ""]


@pytest.mark.parametrize(
    "module",
    [
        metapb_pb2,
        errorpb_pb2,
        kvrpcpb_pb2,
        pdpb_pb2,
        raft_serverpb_pb2,
        raft_cmdpb_pb2,
        import_sstpb_pb2,
        enginepb_pb2,
    ],
)
def test_names_numbers_and_types(module: object) -> None:
    for name, (number, kind) in named(module):
        expected_number, expected = GOLDEN[name]
        last_words = expected.rpartition(" ")
        expected = last_words[0] + last_words[1] + last_words[2].rpartition(".")[2]
        assert (name, number) == (name, expected_number)
        assert (name, kind) == (name, AS_NUMBERS.get(name, expected))


def test_raw_messages_have_the_numbers_of_those_they_stand_for() -> None:
    for raw in raw_enginepb_pb2.DESCRIPTOR.message_types_by_name.values():
        real = enginepb_pb2.DESCRIPTOR.message_types_by_name[raw.name]
        for field in raw.fields:
            there = real.fields_by_name[field.name]
            assert (field.number, field.is_repeated) == (there.number, there.is_repeated)
            is_raw = field.type == FieldDescriptor.TYPE_BYTES
            assert is_raw == (there.message_type is not None and field.message_type is None)
