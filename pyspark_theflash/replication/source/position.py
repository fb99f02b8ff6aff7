"""Positions in a folder of binlog files.

    binlog-0000000000000007:1234

is the position after the first 1234 bytes of that file (of the decompressed bytes if it is
compressed). The store keeps this text and treats it as opaque.
"""

from dataclasses import dataclass

from pyspark_theflash.base.errors import OptionError


@dataclass(frozen=True, slots=True, order=True)
class FilePosition:
    """Position in a file, ordered by name, then offset. `name` is relative to the folder."""

    name: str
    offset: int

    def __str__(self) -> str:
        return f"{self.name}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "FilePosition":
        """Parse NAME:OFFSET; raise `OptionError` if the text is of another form."""
        name, _, offset = text.rpartition(":")
        # 2**63 has 19 digits: no file is that long, and int() of a huge text is slow.
        if not name or not (offset.isascii() and offset.isdigit() and len(offset) < 20):
            raise OptionError("position", f"{text[:80]!r} is not of the form FILE:OFFSET")
        return cls(name, int(offset))
