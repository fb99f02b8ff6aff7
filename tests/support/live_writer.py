"""A writer process that is the pump of a live TiDB."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.cli.main import main
from tests.support.peer import Peer

_PROJECT: Final = Path(__file__).parents[2]
_CLOCK: Final = SystemClock()


class Writer:
    """A writer process of the store, started as soon as PD is there."""

    def __init__(self, peer: Peer, socket: Path, store: Path, schema: str) -> None:
        self._peer, self._command = peer, _command(peer, socket, store, schema)
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._start)
        self._thread.start()

    def stop(self) -> int:
        """End it gracefully; return its exit status."""
        self._thread.join()
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(60)

    def _start(self) -> None:
        while not _answers(f"http://{self._peer.pd_address}/pd/api/v1/version"):
            _CLOCK.sleep_ms(50)
        self._process = subprocess.Popen(self._command, cwd=_PROJECT)


def _command(peer: Peer, socket: Path, store: Path, schema: str) -> list[str]:
    sources = {"tidb": f"tidb:{peer.status_url}", "tikv": f"tikv:{peer.pd_address}"}
    return [
        *(sys.executable, "-m", "pyspark_theflash.cli.main", "writer", str(store)),
        *("--source", f"pump-server:unix:{socket}"),
        *("--schema", sources[schema]),
        *("--pd", peer.pd_address),
        *("--exclude", "mysql.*"),
        *("--interval", "0.1"),
    ]


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except (OSError, URLError):
        return False


@contextmanager
def following(folder: Path, store: Path, schema: str = "tidb") -> Iterator[Peer]:
    """Run a TiDB, and a writer of the store as its pump."""
    socket = folder / "pump.sock"
    assert main(["init", str(store)]) == 0
    peer = Peer(folder / "peer", binlog_socket=socket)
    # TiDB starts after its pump, the pump after PD.
    writer = Writer(peer, socket, store, schema)
    with peer:
        try:
            yield peer
        finally:
            status = writer.stop()
    assert status == 0
