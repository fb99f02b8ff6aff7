"""Stores on the command line that may be behind a server."""

import argparse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.jobs.arguments import add_tls, add_token, server_token, tls_files
from pyspark_theflash.net.address import SCHEME, UNIX, is_address
from pyspark_theflash.service.client.theflash import TheFlash, connect
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import EngineReader
from pyspark_theflash.storage.store.folder import read_identity


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add the store's address, and the token and certificates for a server."""
    parser.add_argument(
        "store",
        metavar="STORE",
        help=f"the store's folder, {SCHEME}HOST:PORT or {UNIX}PATH",
    )
    add_token(parser)
    add_tls(parser)


def opened(arguments: argparse.Namespace) -> TheFlash:
    """Open the store that the command line names.

    Raises:
        UsageError, OptionError: Server options are invalid, or are passed for a folder.
        StoreNotFoundError: There is no store in the folder.
    """
    place: str = arguments.store
    if not is_address(place):
        if arguments.token_file is not None or arguments.ca is not None:
            raise UsageError("tokens and certificates are for servers, not for folders")
        return connect(Path(place))
    tls = tls_files(arguments)
    return connect(place, token=server_token(arguments.token_file), tls=tls)


@contextmanager
def opened_reader(path: Path) -> Iterator[EngineReader]:
    """Open a store's engine for reading."""
    fs = LocalFileSystem()
    with closing(registry.open_reader(path, read_identity(path, fs), fs, SystemClock())) as engine:
        yield engine
