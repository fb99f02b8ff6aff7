"""Bounded reader of untrusted JSON files."""

from typing import Any, Final, Protocol

from pyspark_theflash.base.errors import SchemaFileError
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS, brief, load

_PIECE_BYTES: Final = 1 << 20


class Readable(Protocol):
    """File object, plain or decompressing."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` next bytes; none at the end."""


def read_json(source: Readable, most_bytes: int, where: str) -> Any:  # noqa: ANN401 (JSON)
    """Parse a JSON file.

    Raises:
        SchemaFileError: The file `where` has more than `most_bytes` bytes, or is not JSON.
    """
    pieces, size = [], 0
    # `read(size)` allocates `size` bytes even if fewer are available.
    while piece := source.read(_PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > most_bytes:
            raise SchemaFileError(where, f"larger than {most_bytes} bytes")
    try:
        return load(b"".join(pieces))
    except SHAPE_ERRORS as error:
        raise SchemaFileError(where, f"not JSON: {brief(error)}") from error
