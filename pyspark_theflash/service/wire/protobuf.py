"""Convert the API's messages (`service/wire/message.py`) to protobuf, binary or JSON, and back."""

import json
from typing import Any, Final, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from pyspark_theflash.base.errors import CodecError, UnsupportedError
from pyspark_theflash.base.read_options import timestamp_option
from pyspark_theflash.service.wire import message as values
from pyspark_theflash.service.wire.extent import check_fields, check_json
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
_REQUESTS: Final = {request for request, _ in values.SIGNATURES.values()}
_Value = TypeVar("_Value")


def encode(value: object, *, as_json: bool = False) -> bytes:
    """Encode a message. Raises `CodecError`: a value does not fit its field."""
    encoded = _message(type(value))
    try:
        _fill(encoded, value)
        if as_json:
            return json_format.MessageToJson(encoded, indent=None).encode()
        return bytes(encoded.SerializeToString())
    except SHAPE_ERRORS as error:
        raise CodecError(type(value).__name__, brief(error)) from error


def decode(kind: type[_Value], body: bytes, *, as_json: bool = False) -> _Value:
    """Inverse of `encode`. In JSON, a timestamp may also be a time with its zone.

    Raises:
        OptionError: A timestamp is invalid, or a field of a request is too large.
        CodecError: The bytes are not a message of this kind.
        UnsupportedError: A plan's expressions are too large.
    """
    decoded = _message(kind)
    try:
        if as_json:
            check_json(body)
            document = json.loads(body.decode(), object_pairs_hook=_json_object)
            # protobuf raises SystemError for half a surrogate pair (`"\\ud800"`).
            json.dumps(document, ensure_ascii=False).encode()
            json_format.ParseDict(document, decoded, max_recursion_depth=_JSON_DEPTH_MAX)
        else:
            decoded.ParseFromString(body)
        if kind is values.PlanRequest:
            # Two bytes of a message can become a much larger object.
            check_extent(decoded)
        if kind in _REQUESTS:
            check_fields(decoded)
        return kind(**_attributes(decoded))
    except (DecodeError, json_format.Error, *SHAPE_ERRORS) as error:
        # The bytes may have a secret or a row's value, so the error omits them.
        raise CodecError(kind.__name__, f"not valid ({type(error).__name__})") from error


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
    """Build a JSON object of a request, and convert times to TSOs."""
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a name is repeated")
    for name in _TIMESTAMPS & document.keys():
        if isinstance(document[name], str):
            document[name] = timestamp_option(name, document[name])
    return document


def _message(kind: type) -> Message:
    new: Message = getattr(theflash_pb2, kind.__name__)()
    return new


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


def _attributes(decoded: Message) -> dict[str, Any]:
    """Convert protobuf's fields to the arguments of a message's class."""
    arguments: dict[str, Any] = {}
    for field in decoded.DESCRIPTOR.fields:
        item = getattr(decoded, field.name)
        if field.is_repeated:
            arguments[field.name] = tuple(_attribute(field, each) for each in item)
        elif field.has_presence and not decoded.HasField(field.name):
            # The class has the default: None, or an empty message.
            continue
        else:
            arguments[field.name] = _attribute(field, item)
    return arguments


def _attribute(field: Any, item: Any) -> Any:  # noqa: ANN401 (the field's type)
    if field.message_type is None:
        return item
    kind = getattr(values, field.message_type.name)
    return kind(**_attributes(item))
