"""Every way to a store, for suites that run over all of them."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from pyspark_theflash.service.client.embedded import connect_embedded
from pyspark_theflash.service.client.theflash import TheFlash, connect
from pyspark_theflash.service.wire.method import Role
from tests.support.flight_client import FlightTransport
from tests.support.grpc_client import GrpcTransport
from tests.support.serving import (
    TOKENS,
    server_tls,
    serving,
    serving_flight,
    serving_grpc,
    serving_workers,
    tokens,
    write_tokens,
)
from tests.support.tls import tls

FRAMED: Final = ("in process", "unix socket", "tcp, tls and token", "embedded", "workers")
"""Ways that also write rows."""
WAYS: Final = (*FRAMED, "flight", "grpc")


def marked(ways: Sequence[str]) -> list[Any]:
    """Return the ways as parameters; those that start a process for each test are slow."""
    slow = pytest.mark.slow
    return [
        pytest.param(way, marks=[slow] if way in ("embedded", "workers") else []) for way in ways
    ]


class Way:
    """One way; `open` uses it with a role. Without authentication, every caller is an admin."""

    def __init__(self, name: str, folder: Path, undo: ExitStack) -> None:
        self.name, self._folder, self._undo = name, folder, undo
        self._addresses: dict[Path, str] = {}

    def open(self, store: Path, role: Role = Role.ADMIN) -> TheFlash:
        """Another connection to the same server, if there is one."""
        if self.name == "in process":
            return self._undo.enter_context(connect(store))
        if self.name == "embedded":
            return self._undo.enter_context(connect_embedded(store, idle_ms=1_000))
        if store not in self._addresses:
            self._addresses[store] = self._serve(store)
        return self._undo.enter_context(self._connected(self._addresses[store], role))

    def _serve(self, store: Path) -> str:
        folder, enter = self._folder, self._undo.enter_context
        if self.name == "unix socket":
            return enter(serving(store, f"unix:{folder}/s")).address
        if self.name == "workers":
            tokens_file = write_tokens(folder / "tokens")
            return enter(serving_workers(store, f"unix:{folder}/s", tokens=tokens_file)).address
        accepted = tokens(folder)
        if self.name == "flight":
            return enter(serving_flight(store, "127.0.0.1:0", tokens=accepted)).address
        settings = {"tokens": accepted, "tls": server_tls()}
        if self.name == "grpc":
            return enter(serving_grpc(store, "127.0.0.1:0", **settings)).address
        return enter(serving(store, "127.0.0.1:0", **settings)).address

    def _connected(self, address: str, role: Role) -> TheFlash:
        if self.name == "unix socket":
            return connect(address)
        if self.name == "workers":
            return connect(address, token=TOKENS[role])
        if self.name == "flight":
            return TheFlash(FlightTransport(address, TOKENS[role].value))
        if self.name == "grpc":
            return TheFlash(GrpcTransport(address, TOKENS[role].value, tls("client")))
        return connect(f"theflash://{address}", token=TOKENS[role], tls=tls("client"))
