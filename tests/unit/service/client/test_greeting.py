"""Errors of a client whose server closes the connection before the first request."""

import io
import socket
import threading

import pytest

from pyspark_theflash.base.errors import AuthenticationError, ServiceUnavailableError
from pyspark_theflash.service.api.error import encode_error
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.service.wire.frame import (
    NONCE_BYTES,
    PREFACE,
    FrameType,
    Header,
    Hello,
    Ready,
    Request,
    encode_frame,
)
from pyspark_theflash.service.wire.link import Link
from pyspark_theflash.service.wire.method import Role
from pyspark_theflash.service.wire.protobuf import encode
from tests.support.raw_peer import receive


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
        for _ in range(1 if last_word else 4):
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


@pytest.mark.parametrize(("cuts", "is_served"), [(2, True), (9, False)])
def test_connections_that_are_cut_before_the_call_are_repeated(tmp_path, cuts, is_served):
    """A server closes its oldest callers without a token when there is a flood of them."""
    accepted, methods = [], []

    def serve():
        while True:
            caller, _ = listener.accept()
            with caller:
                if not caller.recv(len(PREFACE)):
                    return
                accepted.append(caller)
                hello = encode_frame(
                    FrameType.HELLO, 0, Hello(False, bytes(NONCE_BYTES)).to_bytes()
                )
                caller.sendall(b"".join(hello))
                if len(accepted) <= cuts:
                    continue
                receive(caller)
                ready = encode_frame(FrameType.READY, 0, Ready(Role.ADMIN, "id").to_bytes())
                caller.sendall(b"".join(ready))
                header, body = receive(caller)
                request, _ = Request.read(header, iter_bytes(body))
                methods.append(request.method)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/s")
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        with connect(f"unix:{tmp_path}/s") as store, pytest.raises(ServiceUnavailableError):
            store.status()
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(f"{tmp_path}/s")
        thread.join()
    assert methods == (["GetStatus"] if is_served else [])
    assert len(accepted) == (cuts + 1 if is_served else 4)


def iter_bytes(body):
    """Return a function that receives the next bytes of a body."""
    file = io.BytesIO(body)
    return file.read
