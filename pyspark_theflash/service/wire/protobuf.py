"""The API's values (`service/wire/message.py`) <-> protobuf, in its binary and its JSON form."""

import json
from typing import Any, Final, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from pyspark_theflash.base.errors import CodecError, UnsupportedError
from pyspark_theflash.base.options import timestamp_option
from pyspark_theflash.service.wire import message as values
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS, brief
from pyspark_theflash.tidb.protocol._generated.theflash.v1 import theflash_pb2

SERVICE: Final = theflash_pb2.DESCRIPTOR.services_by_name["TheFlash"]
PARTS_MAX: Final = 10_000
DEPTH_MAX: Final = 64
"""Limits of the expressions of one request."""
_JSON_DEPTH_MAX: Final = 100
"""The limit of nested messages in JSON; protobuf's limit for its binary form."""
_TIMESTAMPS: Final = {
    *("snapshot_ts", "snapshotTs", "safe_point", "safePoint"),
    *("resolved_ts", "resolvedTs", "start_ts", "startTs"),
}
_Value = TypeVar("_Value")


def encode(value: object, *, as_json: bool = False) -> bytes:
    """A value's message. Raises `CodecError` where a value does not fit its field."""
    made = _message(type(value))
    try:
        _fill(made, value)
        if as_json:
            return json_format.MessageToJson(made, indent=None).encode()
        return bytes(made.SerializeToString())
    except SHAPE_ERRORS as error:
        raise CodecError(type(value).__name__, brief(error)) from error


def decode(kind: type[_Value], body: bytes, *, as_json: bool = False) -> _Value:
    """Inverse of `encode`. In JSON, a timestamp may be a time with its zone, too.

    Raises:
        OptionError: a timestamp is none.
        CodecError: it is no such message.
        UnsupportedError: it has larger expressions than there may be.
    """
    found = _message(kind)
    try:
        if as_json:
            document = json.loads(body.decode(), object_pairs_hook=_json_object)
            # Of half a surrogate pair (`"\\ud800"`) protobuf makes a SystemError.
            json.dumps(document, ensure_ascii=False).encode()
            json_format.ParseDict(document, found, max_recursion_depth=_JSON_DEPTH_MAX)
        else:
            found.ParseFromString(body)
        if kind is values.PlanRequest:
            # Of two bytes can be made much more than that.
            check_extent(found)
        return kind(**_attributes(found))
    except (DecodeError, json_format.Error, *SHAPE_ERRORS) as error:
        # What could not be read may be a secret or a row's value, so it is not shown.
        raise CodecError(kind.__name__, f"not one ({type(error).__name__})") from error


def check_extent(request: Any) -> None:  # noqa: ANN401 (a `PlanRequest`, or the message of one)
    """Check the size of a plan request's expressions before they are converted.

    Raises:
        UnsupportedError: They are nested too deeply, or they are too many.
    """
    aggregation = request.aggregation
    aggregates = () if aggregation is None else aggregation.aggregates
    keys = () if aggregation is None else aggregation.keys
    _check_parts(len(aggregates) + len(keys) + len(request.order))
    level = [request.filter, *(each.argument for each in aggregates), *keys]
    level = [each for each in level if each is not None]
    parts = depth = 0
    while level:
        depth += 1
        if depth > DEPTH_MAX:
            raise UnsupportedError(f"an expression nested deeper than {DEPTH_MAX}", "request")
        parts += sum(len(each.arguments) for each in level)
        _check_parts(parts)
        level = [argument for each in level for argument in each.arguments]


def _check_parts(parts: int) -> None:
    if parts > PARTS_MAX:
        raise UnsupportedError(f"an expression of more than {PARTS_MAX} parts", "request")


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a request in JSON, with TSOs in place of times."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice")
    for name in _TIMESTAMPS & found.keys():
        if isinstance(found[name], str):
            found[name] = timestamp_option(name, found[name])
    return found


def _message(kind: type) -> Message:
    made: Message = getattr(theflash_pb2, kind.__name__)()
    return made


def _fill(target: Message, value: object) -> None:
    for field in target.DESCRIPTOR.fields:
        item = getattr(value, field.name)
        if field.is_repeated and field.message_type is not None:
            for each in item:
                _fill(getattr(target, field.name).add(), each)
        elif field.is_repeated:
            getattr(target, field.name).extend(item)
        elif item is not None and field.message_type is not None:
            getattr(target, field.name).SetInParent()
            _fill(getattr(target, field.name), item)
        elif item is not None:
            setattr(target, field.name, item)


def _attributes(found: Message) -> dict[str, Any]:
    """A message's fields as the arguments of its value's class."""
    arguments: dict[str, Any] = {}
    for field in found.DESCRIPTOR.fields:
        item = getattr(found, field.name)
        if field.is_repeated:
            arguments[field.name] = tuple(_attribute(field, each) for each in item)
        elif field.has_presence and not found.HasField(field.name):
            # What is not there is what the class has by itself: None, or an empty message.
            continue
        else:
            arguments[field.name] = _attribute(field, item)
    return arguments


def _attribute(field: Any, item: Any) -> Any:  # noqa: ANN401 (whatever the field holds)
    if field.message_type is None:
        return item
    kind = getattr(values, field.message_type.name)
    return kind(**_attributes(item))
