"""Channels that are kept, whose certificates are renewed."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.net.channel import Channels, grpc
from tests.support.tls import FOLDER

NAME = "/names/Name"


@pytest.fixture
def address() -> Iterator[str]:
    """A server that returns the common name of its caller's certificate."""

    def name(_: bytes, context: grpc.ServicerContext) -> bytes:
        (common_name,) = context.auth_context()["x509_common_name"]
        return bytes(common_name)

    key, cert, ca = (
        (FOLDER / each).read_bytes() for each in ("server.key", "server.pem", "ca.pem")
    )
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        handler = {"Name": grpc.unary_unary_rpc_method_handler(name)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("names", handler),))
        credentials = grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=True)
        port = server.add_secure_port("localhost:0", credentials)
        server.start()
        yield f"localhost:{port}"
        server.stop(None).wait()


def put(folder: Path, name: str, *kinds: str) -> None:
    """Replace files by those of a certificate."""
    for kind in kinds:
        shutil.copy(FOLDER / f"{name}.{kind}", folder / f"new.{kind}")
        (folder / f"new.{kind}").rename(folder / f"client.{kind}")


def test_renewed_certificates(tmp_path: Path, address: str) -> None:
    put(tmp_path, "client", "pem", "key")
    files = TlsFiles(FOLDER / "ca.pem", tmp_path / "client.pem", tmp_path / "client.key")

    def called(channel: grpc.Channel) -> str:
        return bytes(channel.unary_unary(NAME)(b"", timeout=60, wait_for_ready=True)).decode()

    with closing(Channels(files, 1 << 20)) as channels:
        first = channels.get(address)
        assert called(first) == "tidb"
        put(tmp_path, "stranger", "pem")
        assert channels.get(address) is first  # the key does not match yet
        put(tmp_path, "stranger", "key")
        assert called(channels.get(address)) == "stranger"
        assert called(first) == "tidb"
        assert channels.get(address) is channels.get(address)
        channels.drop(address)
        assert called(channels.get(address)) == "stranger"
