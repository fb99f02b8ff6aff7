"""The token that a command shows a server.

It is in a file that nobody else can read, or in the environment as THEFLASH_TOKEN: on the command
line every process of the machine would see it.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pyspark_theflash.service.api.token import AccessToken

TOKEN_VARIABLE: Final = "THEFLASH_TOKEN"  # noqa: S105 (its name, not a token)


def add_token(parser: argparse._ActionsContainer) -> None:
    """The option of every command that may call a server."""
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"the token for a server (or {TOKEN_VARIABLE} in the environment)",
    )


def server_token(file: Path | None) -> "AccessToken | None":
    """The token in a file, or else in the environment; None if there is none."""
    # Brings in the API, which the writer of a folder does not call.
    from pyspark_theflash.service.api.token import AccessToken

    if file is not None:
        return AccessToken.from_file(file)
    said = os.environ.get(TOKEN_VARIABLE)
    return None if said is None else AccessToken(said)
