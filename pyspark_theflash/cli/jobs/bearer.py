"""Token that a command sends to a server.

It is in a file or in the environment variable THEFLASH_TOKEN, because all processes of the machine
can read command lines.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pyspark_theflash.service.api.token import AccessToken

TOKEN_VARIABLE: Final = "THEFLASH_TOKEN"  # noqa: S105 (its name, not a token)


def add_token(parser: argparse._ActionsContainer) -> None:
    """Add `--token-file`."""
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"the token for a server (or {TOKEN_VARIABLE} in the environment)",
    )


def server_token(file: Path | None) -> "AccessToken | None":
    """Return the token in a file, or else in the environment; None if there is none."""
    # Imported here because the writer of a folder does not need it.
    from pyspark_theflash.service.api.token import AccessToken

    if file is not None:
        return AccessToken.from_file(file)
    token = os.environ.get(TOKEN_VARIABLE)
    return None if token is None else AccessToken(token)
