"""A store on the command line that may be behind a server.

The token of a server that wants one is in a file that nobody else can read, or in the environment
as THEFLASH_TOKEN: on the command line every process of the machine would see it.
"""

import argparse
import os
from pathlib import Path
from typing import Final

from pyspark_theflash.api.token import Token
from pyspark_theflash.client.address import SCHEME, UNIX
from pyspark_theflash.client.theflash import TheFlash, connect
from pyspark_theflash.errors import UsageError
from pyspark_theflash.tls import TlsFiles

TOKEN_VARIABLE: Final = "THEFLASH_TOKEN"  # noqa: S105 (its name, not a token)


def add_place(parser: argparse.ArgumentParser) -> None:
    """Where the store is, and what its server asks for."""
    parser.add_argument(
        "store",
        metavar="STORE",
        help=f"the store's folder, {SCHEME}HOST:PORT or {UNIX}PATH",
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"the token for a server (or {TOKEN_VARIABLE} in the environment)",
    )
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="who signs the server's certificate: speak TLS"
    )
    parser.add_argument("--cert", type=Path, metavar="FILE", help="our certificate for the server")
    parser.add_argument("--key", type=Path, metavar="FILE", help="its key")


def opened(arguments: argparse.Namespace) -> TheFlash:
    """The store that the command line names.

    Raises:
        UsageError, OptionError: what is given for a server is not usable, or there is no server.
        StoreNotFoundError: there is no store in the folder.
    """
    place: str = arguments.store
    if not is_served(place):
        if arguments.token_file is not None or arguments.ca is not None:
            raise UsageError("tokens and certificates are for servers, not for folders")
        return connect(Path(place))
    if arguments.ca is None and (arguments.cert is not None or arguments.key is not None):
        raise UsageError("--cert and --key need --ca")
    tls = None if arguments.ca is None else TlsFiles(arguments.ca, arguments.cert, arguments.key)
    return connect(place, token=_token(arguments.token_file), tls=tls)


def is_served(place: str) -> bool:
    """Whether a STORE is a server's address and no folder."""
    return place.startswith((SCHEME, UNIX))


def _token(file: Path | None) -> Token | None:
    if file is not None:
        return Token.from_file(file)
    said = os.environ.get(TOKEN_VARIABLE)
    return None if said is None else Token(said)
