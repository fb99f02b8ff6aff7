"""Sending callers away before a session, with the reason."""

import contextlib
from typing import Final

from pyspark_theflash.base.errors import ServiceUnavailableError
from pyspark_theflash.service.api.error import encode_error
from pyspark_theflash.service.wire.frame import FrameType, encode_frame
from pyspark_theflash.service.wire.link import Link
from pyspark_theflash.service.wire.protobuf import encode

_SEND_MS: Final = 20


def tell_error(link: Link, error: Exception) -> None:
    """Say what is wrong, to whoever listens."""
    body = encode(encode_error(error))
    with contextlib.suppress(OSError):
        link.send(encode_frame(FrameType.ERROR, 0, body), _SEND_MS)


def reject(link: Link, address: str, connections_max: int, *, has_tls: bool) -> None:
    """End a connection that is one too many."""
    # Of a TLS connection only the end is seen: a handshake is too much for who is full.
    if not has_tls:
        reason = f"it has {connections_max} connections already"
        tell_error(link, ServiceUnavailableError(address, reason))
    link.interrupt()
    link.close()
