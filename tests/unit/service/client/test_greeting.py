"""Errors of a client whose server closes the connection before the first request."""

import socket
import threading

import pytest

from pyspark_theflash.base.errors import AuthenticationError, ServiceUnavailableError
from pyspark_theflash.service.api.error import encode_error
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.service.wire.frame import FrameType, Header
from pyspark_theflash.service.wire.link import Link
from pyspark_theflash.service.wire.protobuf import encode


@pytest.mark.parametrize(
    ("last_word", "error", "text"),
    [
        (AuthenticationError("there", "not you"), AuthenticationError, "not you"),
        (None, ServiceUnavailableError, "closed|reset"),
    ],
)
def test_why_it_hung_up_is_told(tmp_path, monkeypatch, last_word, error, text):
    hung_up = threading.Event()
    send = Link.send

    def late(link, parts, timeout_ms):
        assert hung_up.wait(10)
        send(link, parts, timeout_ms)

    def refuse():
        caller, _ = listener.accept()
        with caller:
            if last_word is not None:
                body = encode(encode_error(last_word))
                caller.sendall(Header(FrameType.ERROR, 0, len(body)).to_bytes() + body)
        hung_up.set()

    monkeypatch.setattr(Link, "send", late)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/s")
        listener.listen()
        thread = threading.Thread(target=refuse)
        thread.start()
        with connect(f"unix:{tmp_path}/s") as store, pytest.raises(error, match=text):
            store.status()
        thread.join()
