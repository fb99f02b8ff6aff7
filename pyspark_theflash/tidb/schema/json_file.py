"""Reading JSON files of others: no more of them than is there, and nothing else than JSON."""

from typing import Any, Final, Protocol

from pyspark_theflash.base.errors import SchemaFileError
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS, brief, load

_PIECE_BYTES: Final = 1 << 20


class Readable(Protocol):
    """A file, plain or being unpacked."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, `size` at most; none at the end."""


def read_json(source: Readable, most_bytes: int, where: str) -> Any:  # noqa: ANN401 (JSON)
    """The JSON in a file.

    Raises:
        SchemaFileError: it has more than `most_bytes`, or is not JSON; `where` is named.
    """
    pieces, size = [], 0
    # Python's `read` takes as much memory as it is asked for, whatever there is.
    while piece := source.read(_PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > most_bytes:
            raise SchemaFileError(where, f"larger than {most_bytes} bytes")
    try:
        return load(b"".join(pieces))
    except SHAPE_ERRORS as error:
        raise SchemaFileError(where, f"not JSON: {brief(error)}") from error
