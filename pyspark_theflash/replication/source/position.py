"""Where to go on in a folder of binlog files, as values and as text.

    binlog-0000000000000007:1234

is behind the frame that ends with byte 1234 of that file (of its inflated bytes, where it is
compressed). The text is what a store keeps; nobody but the source it came from reads it.
"""

from dataclasses import dataclass

from pyspark_theflash.base.errors import OptionError


@dataclass(frozen=True, slots=True, order=True)
class FilePosition:
    """Ordered as the files are read: by name, then by offset. `name` is relative to the folder."""

    name: str
    offset: int

    def __str__(self) -> str:
        return f"{self.name}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "FilePosition":
        """Raises `OptionError` for what is no such position."""
        name, _, offset = text.rpartition(":")
        # 2**63 has 19 digits: no file is that long, and int() of a huge text takes its time.
        if not name or not (offset.isascii() and offset.isdigit() and len(offset) < 20):
            raise OptionError("position", f"{text[:80]!r} is not of the form FILE:OFFSET")
        return cls(name, int(offset))
