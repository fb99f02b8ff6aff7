"""Generate the Python classes of the API's messages from `theflash/v1/theflash.proto`.

A message becomes a frozen dataclass with the comments of the `.proto` file as docstrings. A
repeated field is a tuple, an optional one is None by default, and one marked `debug_redact`, or of
bytes, is left out of `repr`. `pyspark_theflash/service/wire/protobuf.py` converts between the two.
"""

import re
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from google.protobuf import descriptor_pb2 as pb
from grpc_tools import protoc

SOURCE = "theflash/v1/theflash.proto"
WIDTH = 100
TIMESTAMPS = ("snapshot_ts", "safe_point", "resolved_ts", "start_ts")
"""Optional fields of requests with these names are checked: they must be timestamps of TiDB."""
HEADER = '''\
"""The messages of the TheFlash API and the types of its calls.

Generated from `protos/theflash/v1/theflash.proto` by `make proto`. Do not edit.
"""

from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from pyspark_theflash.base.read_options import timestamp_option

_Bytes: TypeAlias = bytes


def _check_timestamps(request: object, *names: str) -> None:
    """Raise `OptionError` if one of these attributes is neither None nor a timestamp."""
    for name in names:
        if (value := getattr(request, name)) is not None:
            timestamp_option(name, value)
'''
_F = pb.FieldDescriptorProto
_MESSAGE, _FIELD = 4, 2
"""Field numbers of `FileDescriptorProto.message_type` and `DescriptorProto.field` in a path."""


def message_module(folder: Path) -> str:
    """The source of the module for the `.proto` file below `folder`."""
    file = _descriptor(folder)
    comments = {
        tuple(place.path): " ".join(place.leading_comments.split())
        for place in file.source_code_info.location
        if place.leading_comments
    }
    numbers = {message.name: i for i, message in enumerate(file.message_type)}
    service = file.service[0]
    requests = {_name(method.input_type) for method in service.method}
    parts = [HEADER]
    for name in _in_order(file.message_type):
        number = numbers[name]
        lines = _class(file.message_type[number], (_MESSAGE, number), comments, name in requests)
        parts.append("\n".join(lines) + "\n")
    calls = [
        f'    "{each.name}": ({_name(each.input_type)}, {_name(each.output_type)}),\n'
        for each in service.method
    ]
    signatures = "SIGNATURES: Final[dict[str, tuple[type[Any], type[Any]]]] = {\n"
    docstring = '"""The types of request and response of each call."""\n'
    parts.append("".join([signatures, *calls, "}\n", docstring]))
    return "\n\n".join(parts)


def _descriptor(folder: Path) -> pb.FileDescriptorProto:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "set")
        arguments = [f"-I{folder}", f"--descriptor_set_out={path}", "--include_source_info"]
        if protoc.main(["protoc", *arguments, str(folder / SOURCE)]):
            raise SystemExit("protoc failed")
        return pb.FileDescriptorSet.FromString(path.read_bytes()).file[0]


def _in_order(messages: Sequence[pb.DescriptorProto]) -> list[str]:
    """The names of messages, each after those of its fields."""
    by_name = {message.name: message for message in messages}
    ordered: list[str] = []

    def add(name: str) -> None:
        for field in by_name[name].field:
            if field.type == _F.TYPE_MESSAGE and _name(field.type_name) not in (name, *ordered):
                add(_name(field.type_name))
        if name not in ordered:
            ordered.append(name)

    for message in messages:
        add(message.name)
    return ordered


def _class(
    message: pb.DescriptorProto,
    path: tuple[int, ...],
    comments: Mapping[tuple[int, ...], str],
    is_request: bool,
) -> Iterator[str]:
    yield "@dataclass(frozen=True, slots=True)"
    yield f"class {message.name}:"
    yield from _docstring(comments[path])
    if message.field:
        yield ""
    # A field called `bytes` hides the type's name in its class.
    bytes_type = "_Bytes" if any(each.name == "bytes" for each in message.field) else "bytes"
    for number, field in enumerate(message.field):
        yield _attribute(field, message.name, bytes_type)
        if comment := comments.get((*path, _FIELD, number)):
            yield from _docstring(comment)
    checked = [f.name for f in message.field if f.proto3_optional and f.name in TIMESTAMPS]
    if is_request and checked:
        names = ", ".join(f'"{name}"' for name in checked)
        yield ""
        yield "    def __post_init__(self) -> None:"
        yield f"        _check_timestamps(self, {names})"


def _attribute(field: pb.FieldDescriptorProto, owner: str, bytes_type: str) -> str:
    kind, default = _type(field, owner, bytes_type)
    is_hidden = field.type == _F.TYPE_BYTES or field.options.debug_redact
    if field.label == _F.LABEL_REPEATED:
        kind, default = f"tuple[{kind}, ...]", "()"
    elif field.proto3_optional:
        kind, default = f"{kind} | None", "None"
    value = f"field(default={default}, repr=False)" if is_hidden else default
    return f"    {field.name}: {kind} = {value}"


def _type(field: pb.FieldDescriptorProto, owner: str, bytes_type: str) -> tuple[str, str]:
    """A field's type without tuple or None, and its default value."""
    if field.type == _F.TYPE_MESSAGE:
        name = _name(field.type_name)
        return (f'"{name}"' if name == owner else name), f"{name}()"
    if field.type == _F.TYPE_STRING:
        return "str", '""'
    if field.type == _F.TYPE_BYTES:
        return bytes_type, 'b""'
    if field.type == _F.TYPE_BOOL:
        return "bool", "False"
    return "int", "0"


def _docstring(text: str) -> Iterator[str]:
    """A comment as a docstring, its first sentence alone in the first line."""
    text = text if text.endswith(".") else f"{text}."
    if len(text) + 4 + 6 <= WIDTH:
        yield f'    """{text}"""'
        return
    first, _, rest = text.partition(". ")
    if not rest or len(first) + 4 + 4 > WIDTH:
        lines = textwrap.wrap(f'"""{text}', WIDTH - 4)
        yield from (f"    {line}" for line in lines)
    else:
        yield f'    """{first}.'
        yield ""
        yield from (f"    {line}" for line in textwrap.wrap(rest, WIDTH - 4))
    yield '    """'


def _name(full: str) -> str:
    return re.sub(r".*\.", "", full)
