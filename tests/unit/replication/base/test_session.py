"""Addresses of a TiDB, and a server that is none."""

import socket
import threading

import pytest

from pyspark_theflash.base.errors import (
    OptionError,
    ServiceRefusedError,
    ServiceUnavailableError,
)
from pyspark_theflash.replication.base.session import MySqlAddress, MySqlSession, parse_url


def test_a_url():
    address = parse_url("mysql://a%40b@tidb.example:4000", "secret")
    assert address == MySqlAddress("tidb.example", 4000, "a@b", "secret")
    assert "secret" not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "mysql://tidb:4000",
            "mysql://u@tidb",
            "mysql://u@:1",
            "mysql://u@h:x",
            "mysql://u@h:1/d",
        ),
        *("mysql://u@h:1?ssl=1", "mysql://u@h:99999"),
    ],
)
def test_another_url(url):
    with pytest.raises(OptionError, match="expected mysql"):
        parse_url(url)


def test_a_password_in_a_url_is_rejected_and_not_shown():
    with pytest.raises(OptionError) as failure:
        parse_url("mysql://u:secret@h:4000")
    assert "secret" not in str(failure.value)


def serve(*answers: bytes) -> MySqlAddress:
    """Start a server of one connection that sends each answer after a message."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with listener, listener.accept()[0] as connection:
            for number, answer in enumerate(answers):
                if number:
                    connection.recv(1 << 16)
                connection.sendall(answer)
            connection.recv(1 << 16)

    threading.Thread(target=run, daemon=True).start()
    return MySqlAddress("127.0.0.1", listener.getsockname()[1], "u", "secret")


GREETING = (
    b"\x0a8.0.11-TiDB\0" + bytes(4) + b"12345678\0" + b"\xff\xf7\x2e\x02\x00\xff\x8f\x15"
    b"" + bytes(10) + b"123456789012\0mysql_native_password\0"
)


def packet(number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload


@pytest.mark.parametrize("plugin", [b"mysql_clear_password", b"dialog", b"caching_sha2_password"])
def test_a_server_does_not_get_the_password(plugin):
    switch = packet(2, b"\xfe" + plugin + b"\0" + b"12345678901234567890\0")
    with pytest.raises(OptionError, match="use TLS"):
        MySqlSession(serve(packet(0, GREETING), switch))


def test_no_server():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ServiceUnavailableError):
        MySqlSession(MySqlAddress("127.0.0.1", port, "u"))


@pytest.mark.parametrize(
    "junk", [b"HTTP/1.1 400 Bad Request\r\n\r\n", packet(0, b""), packet(0, b"\x0a")]
)
def test_another_server(junk):
    with pytest.raises((ServiceUnavailableError, ServiceRefusedError)):
        MySqlSession(serve(junk))
