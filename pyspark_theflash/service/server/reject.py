"""Errors sent to callers before a session exists."""

import contextlib
from typing import Final

from pyspark_theflash.service.api.error import encode_error
from pyspark_theflash.service.wire.frame import FrameType, encode_frame
from pyspark_theflash.service.wire.link import Link
from pyspark_theflash.service.wire.protobuf import encode

_SEND_MS: Final = 20


def send_error(link: Link, error: Exception) -> None:
    """Send an ERROR frame; does nothing if the caller has closed the connection."""
    with contextlib.suppress(OSError):
        link.send(encode_frame(FrameType.ERROR, 0, encode(encode_error(error))), _SEND_MS)
