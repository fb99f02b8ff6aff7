"""The largest extents of the fields of requests, which are checked before requests are converted.

A message of protobuf takes many times its size once it is converted: two bytes can become an
object. So each repeated field has a largest count here, and each text or binary value a largest
size. A field that is not listed has the default.
"""

from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor

from pyspark_theflash.base.errors import OptionError

COUNT_MAX: Final = 100
SIZE_MAX: Final = 16 << 10
COUNTS: Final = {
    "PlanRequest.columns": 4_200,
    "PlanRequest.order": 4_200,
    "Aggregation.groups": 4_200,
    "Aggregation.aggregates": 10_000,
    "Aggregation.keys": 10_000,
    "Expression.arguments": 10_000,
    "ScanRequest.more": 10_000,
    "WriteRequest.latches": 1_000,
    "WriteRequest.tables": 10_000,
    "WriteRequest.schema": 100_000,
    "PublishRequest.physical_ids": 1_000_000,
    "CompactTablesRequest.physical_ids": 1_000_000,
    "MaintainRequest.open_orphans": 1_000_000,
}
"""The largest number of entries, for fields above `COUNT_MAX`."""
SIZES: Final = {
    "Setting.value": 128 << 10,
    "PlanRequest.where": 128 << 10,
    "Literal.text": 256 << 10,
    "Literal.bytes": 256 << 10,
    "ScanRequest.ticket": 1 << 20,
    "ScanRequest.more": 1 << 20,
    "SchemaChange.table_info": 8 << 20,
    "VersionsRequest.arrow_schema": 4 << 20,
}
"""The largest size of a text (in characters) or of bytes, for fields above `SIZE_MAX`."""
JSON_PARTS_MAX: Final = 500_000
"""The largest number of values in JSON, by its punctuation, which may be in texts too."""
_SIZED: Final = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


def check_fields(message: Any) -> None:  # noqa: ANN401 (a message of protobuf)
    """Check the fields of a request and of the messages in it. Raises `OptionError`."""
    kind = message.DESCRIPTOR.name
    for field, value in message.ListFields():
        name = f"{kind}.{field.name}"
        values = value if field.is_repeated else (value,)
        if len(values) > COUNTS.get(name, COUNT_MAX):
            raise _too_large(name, f"{len(values)} entries", COUNTS.get(name, COUNT_MAX))
        if field.message_type is not None:
            for each in values:
                check_fields(each)
        elif field.type in _SIZED:
            size = max(map(len, values))
            if size > SIZES.get(name, SIZE_MAX):
                raise _too_large(name, f"a size of {size}", SIZES.get(name, SIZE_MAX))


def check_json(body: bytes) -> None:
    """Check JSON before it is parsed. Raises `OptionError`."""
    parts = body.count(b",") + body.count(b"[") + body.count(b"{")
    if parts > JSON_PARTS_MAX:
        raise _too_large("request", f"{parts} values", JSON_PARTS_MAX)


def _too_large(name: str, extent: str, extent_max: int) -> OptionError:
    return OptionError(name, f"has {extent}; at most {extent_max} are allowed")
