"""Find or start the engine process of a store and print its address, for other languages.

    python -m pyspark_theflash.service.client.engine_process STORE [--idle S] [--workers N]
        [--limit NAME=N]

Prints one JSON object: `{"address": "unix:PATH"}`, or an error with fields of the API's `Error`,
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
    """Print the address or the error; returns the exit status."""
    parser = argparse.ArgumentParser(description="Find or start the engine process of a store.")
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument("--idle", type=float, default=IDLE_MS / 1000, metavar="S")
    parser.add_argument("--workers", type=int, metavar="N")
    parser.add_argument("--limit", action="append", default=[], metavar="NAME=N")
    arguments = parser.parse_args(argv)
    store, idle_ms = arguments.store, round(arguments.idle * 1000)
    try:
        result: dict[str, object]
        read_identity(store, LocalFileSystem())
        started = arguments.workers, arguments.limit
        transport = EmbeddedTransport(store, SystemClock(), idle_ms, *started)
        with closing(transport):
            transport.call(method("GetStatus"), StatusRequest(), START_MS)
        result = {"address": f"{UNIX}{socket_path(store)}"}
    except TheFlashError as error:
        name, text = type(error).__name__, str(error)
        result = {"error": {"name": name, "text": text, "retryable": error.retryable}}
    json.dump(result, sys.stdout)
    return int("error" in result)


if __name__ == "__main__":
    sys.exit(main())
