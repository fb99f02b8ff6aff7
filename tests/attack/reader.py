"""A reader, an administrator and others who use a server while it is attacked.

    python -m tests.attack.reader PROTOCOL < a pickled `Server`

Prints a line after the first call. At the end of its standard input, it prints its calls as JSON,
each as [who, start, took, error] in milliseconds of the boot time. A reader pools its connections,
and reads a table; a newcomer and an administrator connect for each call.
"""

import json
import pickle
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any
from urllib.request import urlopen

from pyspark_theflash.service.client.theflash import TheFlash
from pyspark_theflash.service.wire.message import LatchesRequest, ScanRequest, StatusRequest
from pyspark_theflash.service.wire.method import METHODS, SCAN, Role
from tests.attack.servers import Server
from tests.support.pump_client import PumpWriter
from tests.support.serving import CLOCK

TIMEOUT_MS = 20_000
_PAUSE_MS = 20
Call = tuple[str, int, int, str]
_PROBE = b""
"""TiDB's check that a pump works."""


class Observer:
    """Threads that call a server and note each call."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.undo = ExitStack()
        """Closes connections at the end."""
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def call_often(self, who: str, pause_ms: int, call: Callable[[], Any]) -> None:
        """Make a call again and again."""

        def run() -> None:
            while not self._ended.is_set():
                start_ms, error = CLOCK.boottime_ms(), ""
                try:
                    call()
                except Exception as caught:  # noqa: BLE001 (noted)
                    error = f"{type(caught).__name__}: {caught}"[:200]
                self.calls.append((who, start_ms, CLOCK.boottime_ms() - start_ms, error))
                self._ended.wait(pause_ms / 1000)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._threads.append(thread)

    def end(self) -> None:
        """Stop calling."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self.undo.close()


def observe(server: Server, protocol: str, observer: Observer) -> None:
    """Start the callers that a protocol has."""
    if protocol == "pump":
        pump = PumpWriter(server.addresses["pump"], server.tls)
        writer = observer.undo.enter_context(pump)
        observer.call_often("reader", _PAUSE_MS, lambda: writer.write(_PROBE, TIMEOUT_MS / 1000))
        return
    if protocol == "metrics":
        url = f"http://{server.addresses['metrics']}/metrics"
        observer.call_often("reader", _PAUSE_MS, lambda: urlopen(url, timeout=20).close())
        return
    served = protocol if protocol in ("grpc", "flight") else "frames"

    def once(who: Role, name: str, request: object) -> None:
        with closing(server.transport(served, who)) as transport:
            transport.call(METHODS[name], request, TIMEOUT_MS)

    pooled = observer.undo.enter_context(closing(server.transport(served, Role.READ)))
    observer.call_often("reader", _PAUSE_MS, lambda: _read(pooled, server.table, served))
    observer.call_often(
        "newcomer", 5 * _PAUSE_MS, lambda: once(Role.READ, "GetStatus", StatusRequest())
    )
    observer.call_often(
        "admin", 5 * _PAUSE_MS, lambda: once(Role.ADMIN, "ListLatches", LatchesRequest())
    )


def _read(transport: Any, table: str, protocol: str) -> None:
    """Read a table, or the status over gRPC, which has no rows."""
    if protocol == "grpc":
        transport.call(METHODS["GetStatus"], StatusRequest(), TIMEOUT_MS)
        return
    api = TheFlash(transport)
    plan = api.plan(table, timeout_ms=TIMEOUT_MS)
    rows = 0
    for split in plan.splits:
        with transport.scan(SCAN, ScanRequest(split.ticket), TIMEOUT_MS) as batches:
            rows += sum(batch.num_rows for batch in batches)
    api.release(plan.snapshot)
    if not rows:
        raise AssertionError("the table has no rows")


def serve_once(server: Server, protocol: str) -> list[str]:
    """Call as each of the callers, until one call of each succeeds; return the errors otherwise."""
    observer = Observer()
    observe(server, protocol, observer)
    deadline_ms = CLOCK.boottime_ms() + TIMEOUT_MS
    served: set[str] = set()
    while not served and CLOCK.boottime_ms() < deadline_ms:
        CLOCK.sleep_ms(_PAUSE_MS)
        called = {who for who, *_ in observer.calls}
        served = (
            called if called <= {who for who, _, _, error in observer.calls if not error} else set()
        )
    observer.end()
    return [] if served else sorted({f"{who}: {error}" for who, _, _, error in observer.calls})


def main() -> None:
    """See the module."""
    size = int(sys.stdin.buffer.readline())
    server: Server = pickle.loads(sys.stdin.buffer.read(size))
    observer = Observer()
    observe(server, sys.argv[1], observer)
    while not observer.calls:
        CLOCK.sleep_ms(_PAUSE_MS)
    print("ready", flush=True)
    sys.stdin.buffer.read()
    observer.end()
    json.dump(observer.calls, sys.stdout)


if __name__ == "__main__":
    main()
