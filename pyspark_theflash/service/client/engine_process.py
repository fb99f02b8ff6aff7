"""Find or start the engine process of a store, and say where it listens: for other languages.

    python -m pyspark_theflash.service.client.engine_process STORE [--idle S] [--workers N]

Prints one JSON object: `{"address": "unix:PATH"}`, or what went wrong, as the API's Error message,
`{"error": {"name": ..., "text": ..., "retryable": ...}}`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import TheFlashError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.net.address import UNIX
from pyspark_theflash.service.client.embedded import (
    IDLE_MS,
    START_MS,
    EmbeddedTransport,
    socket_path,
)
from pyspark_theflash.service.wire.message import StatusRequest
from pyspark_theflash.service.wire.method import method
from pyspark_theflash.storage.store.folder import read_identity


def main(argv: Sequence[str] | None = None) -> int:
    """Print the address, or the error; the exit status."""
    parser = argparse.ArgumentParser(description="Find or start the engine process of a store.")
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument("--idle", type=float, default=IDLE_MS / 1000, metavar="S")
    parser.add_argument("--workers", type=int, metavar="N")
    arguments = parser.parse_args(argv)
    try:
        found = address(arguments.store, arguments.idle, arguments.workers)
        told: dict[str, object] = {"address": found}
    except TheFlashError as error:
        name, text = type(error).__name__, str(error)
        told = {"error": {"name": name, "text": text, "retryable": error.retryable}}
    json.dump(told, sys.stdout)
    return int("error" in told)


def address(store: Path, idle_s: float, workers: int | None = None) -> str:
    """Where the engine process of a store listens, which ends `idle_s` after its last user.

    `workers`: see `connect_embedded`.

    Raises:
        StoreNotFoundError: there is no store; also what else `read_identity` says of it.
        ServiceUnavailableError: it does not start.
    """
    read_identity(store, LocalFileSystem())
    made = EmbeddedTransport(store, SystemClock(), round(idle_s * 1000), workers)
    with closing(made) as transport:
        transport.call(method("GetStatus"), StatusRequest(), START_MS)
    return f"{UNIX}{socket_path(store)}"


if __name__ == "__main__":
    sys.exit(main())
