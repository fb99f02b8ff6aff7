"""The largest extents of requests: nothing without one, and none that callers can pass."""

import pytest
from google.protobuf.descriptor import FieldDescriptor

from pyspark_theflash.base.errors import OptionError, TheFlashError
from pyspark_theflash.service.wire import extent, message
from pyspark_theflash.service.wire.method import METHODS, REQUEST_BYTES_MAX, UNARY_BYTES_MAX
from pyspark_theflash.service.wire.protobuf import SERVICE, decode, encode

KINDS = {m.name: m.input_type for m in SERVICE.methods}
TOO_LARGE = r"at most|more than"
SIZED = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


def fields(kind, collected=None):
    """All fields of a request and of the messages in it, by name."""
    collected = {} if collected is None else collected
    for field in kind.fields:
        name = f"{kind.name}.{field.name}"
        if name not in collected:
            collected[name] = field
            if field.message_type is not None:
                fields(field.message_type, collected)
    return collected


def test_the_tables_name_fields_of_requests():
    every = {name: field for kind in KINDS.values() for name, field in fields(kind).items()}
    assert all(every[name].is_repeated for name in extent.COUNTS)
    assert all(every[name].type in SIZED for name in extent.SIZES)


@pytest.mark.parametrize("name", METHODS)
def test_counts_and_sizes_of_every_field(name):
    """One more than the largest is refused, wherever the message has it."""
    for owner, field in fields(KINDS[name]).items():
        kind = getattr(message, field.containing_type.name)
        if field.is_repeated:
            count = extent.COUNTS.get(owner, extent.COUNT_MAX)
            refused(name, kind, field, [sample(field)] * (count + 1))
        if field.type in SIZED:
            size = extent.SIZES.get(owner, extent.SIZE_MAX)
            long = "x" * (size + 1)
            value = long if field.type == FieldDescriptor.TYPE_STRING else long.encode()
            refused(name, kind, field, (value,) if field.is_repeated else value)


def sample(field):
    if field.message_type is not None:
        return getattr(message, field.message_type.name)()
    return {FieldDescriptor.TYPE_STRING: "", FieldDescriptor.TYPE_BYTES: b""}.get(field.type, 1)


def refused(name, kind, field, value):
    """A message with that field is refused as the request that it is a part of."""
    part = kind(**{field.name: tuple(value) if isinstance(value, list) else value})
    request = METHODS[name].request
    while not isinstance(part, request):
        holder = holding(KINDS[name], type(part))
        outer = getattr(message, holder.containing_type.name)
        part = outer(**{holder.name: (part,) if holder.is_repeated else part})
    with pytest.raises(TheFlashError, match=TOO_LARGE):
        decode(request, encode(part))


def holding(request, kind):
    """The field of a request, or of a message in it, that has messages of that kind."""
    return next(
        field
        for field in fields(request).values()
        if field.message_type is not None
        and field.message_type.name == kind.__name__ != field.containing_type.name
    )


@pytest.mark.parametrize("name", METHODS)
def test_no_request_costs_more_than_it_is_worth(name):
    """The most entries that fit are refused before any of them is converted."""
    called = METHODS[name]
    assert called.bytes_max in (UNARY_BYTES_MAX, REQUEST_BYTES_MAX)
    for field in KINDS[name].fields:
        if field.is_repeated and field.message_type is not None:
            tag = bytes([field.number << 3 | 2, 0])
            with pytest.raises(TheFlashError, match=TOO_LARGE):
                decode(called.request, tag * (called.bytes_max // 2))


def test_json():
    body = b'{"more": [' + b'"",' * extent.JSON_PARTS_MAX + b'""]}'
    with pytest.raises(OptionError, match="values"):
        decode(message.ScanRequest, body, as_json=True)
    with pytest.raises(OptionError, match=r"ReadOptions\.settings"):
        decode(message.ReadOptions, b'{"settings": [' + b"{}," * 100 + b"{}]}", as_json=True)


def test_responses_may_be_larger():
    tables = message.Tables(1, tuple(message.TableName(n) for n in range(extent.COUNT_MAX + 1)))
    assert decode(message.Tables, encode(tables)) == tables
