"""Parse protobuf messages."""

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from pyspark_theflash.base.errors import CodecError

M = TypeVar("M", bound=Message)


def parse_message(kind: type[M], data: bytes) -> M:
    """Parse a message. Raises `CodecError`: The bytes are not a message of this type."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise CodecError(kind.DESCRIPTOR.full_name, f"not a message: {error}") from error
