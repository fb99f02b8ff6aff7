"""`theflash doctor` with a live cluster, and a status port of its store."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pyspark_theflash.cli.jobs.doctor import Doctor
from pyspark_theflash.cli.main import main
from tests.support.peer import Peer

pytestmark = [pytest.mark.peer]


@contextmanager
def status_port() -> Iterator[str]:
    """The part of TiKV's configuration that is read."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"cdc": {"min-ts-interval": "200ms"}}).encode()
            self.send_response(200 if self.path == "/config" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Peer(tmp_path / "peer", cdc="v8.5") as peer:
        peer.sql(
            "CREATE DATABASE shop",
            "CREATE TABLE shop.a (id INT PRIMARY KEY)",
            "SET GLOBAL tidb_gc_life_time = '17m'",
        )
        command = ["doctor", "--pd", peer.pd_address, "--tables", "shop.*"]
        assert main(command) == 0
        lines = capsys.readouterr().out.splitlines()
        assert "ok      GC life time  17m0s" in lines
        (store,) = (line for line in lines if line.startswith("ok      TiKV"))
        assert store.endswith("resolved timestamps every (unknown; 1s by default)")
        with status_port() as address:  # unistore has none
            ports = {peer.kv_address: address}
            monkeypatch.setattr(Doctor, "_status_ports", lambda _: ports)
            assert main(command) == 0
        assert "resolved timestamps every 200ms" in capsys.readouterr().out
