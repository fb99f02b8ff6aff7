"""Paths of TiCDC's storage sink.

    metadata                                        {"checkpoint-ts": TS}
    SCHEMA/TABLE/meta/schema_VERSION_CHECKSUM.json  columns of a table version, and its DDL query
    SCHEMA/TABLE/VERSION[/PARTITION][/DATE]/        the version's rows:
        CDC000001.json                                  one series of files, by number
        CDC_DISPATCHER_000001.json                      or one series per dispatcher
        meta/CDC.index                                  name of the newest file, written before it

With `use-table-id-as-path`, SCHEMA/TABLE is the physical table's id, and there is no PARTITION.
VERSION is a timestamp. DATE is a day, a month or a year. A directory of four digits may be a year
or a partition; then the partition is determined by the values.

Index files are not read, since they are written before the file that they name: a newer file shows
that a file is complete, and the size to which a file was read is recorded.

See pingcap/ticdc, pkg/cloudstorage/path_key.go and schema_file.go.
"""

import re
from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import PhysicalTableID

METADATA: Final = "metadata"
_DATA_FILE: Final = re.compile(r"CDC(?:_(.+)_)?([0-9]{1,20})\.(json|csv)")
_SCHEMA_FILE: Final = re.compile(r"(.+)/meta/schema_([0-9]{1,20})_[0-9]{10}\.json")
_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_VERSION: Final = re.compile(r"[0-9]{15,20}")
_DATE: Final = re.compile(r"[0-9]{4}(-[0-9]{2}){0,2}")
_YEAR: Final = re.compile(r"[0-9]{4}")
_LAYER: Final = "path of a storage sink"


@dataclass(frozen=True, slots=True)
class SinkFile:
    """A file of rows.

    `series` identifies the files that are numbered together, `table` the directory of the table's
    schema files. `physical_id` is the partition, or the table if the path has its id.
    """

    path: str
    series: str
    number: int
    table: str
    version: int
    physical_id: PhysicalTableID | None

    @property
    def is_csv(self) -> bool:
        return self.path.endswith(".csv")


def parse_data_file(path: str) -> SinkFile | None:
    """Parse a path relative to the sink; None if it is not a file of rows.

    Raises:
        CodecError: It is a file of rows in a directory of another layout.
    """
    *folders, name = path.split("/")
    match = _DATA_FILE.fullmatch(name)
    if match is None:
        return None
    dispatcher, number, _ = match.groups()
    depth = next((i for i in (2, 1) if _VERSION.fullmatch(_at(folders, i))), 0)
    rest = folders[depth + 1 :]
    is_by_id = depth == 1 and _NUMBER.fullmatch(folders[0]) is not None
    if not depth or (depth == 1 and not is_by_id) or not _is_rest(rest, is_by_id=is_by_id):
        raise CodecError(_LAYER, f"{path[:200]!r} is not in the directory of a table version")
    return SinkFile(
        path,
        "/".join(folders) + ("" if dispatcher is None else f"/{dispatcher}"),
        int(number),
        "/".join(folders[:depth]),
        int(folders[depth]),
        _physical_id(folders[0] if is_by_id else "", rest),
    )


def parse_schema_file(path: str) -> tuple[str, int] | None:
    """Return table directory and version of a table's schema file; None for other files."""
    match = _SCHEMA_FILE.fullmatch(path)
    return None if match is None else (match[1], int(match[2]))


def _at(folders: list[str], index: int) -> str:
    return folders[index] if index < len(folders) else ""


def _is_rest(rest: list[str], *, is_by_id: bool) -> bool:
    """Return whether these are [PARTITION][/DATE]."""
    if len(rest) == 2 and not is_by_id:
        return bool(_NUMBER.fullmatch(rest[0]) and _DATE.fullmatch(rest[1]))
    if len(rest) == 1:
        return bool(_DATE.fullmatch(rest[0]) or (_NUMBER.fullmatch(rest[0]) and not is_by_id))
    return not rest


def _physical_id(table_id: str, rest: list[str]) -> PhysicalTableID | None:
    text = table_id or (rest[0] if rest else "")
    is_ambiguous = not table_id and len(rest) == 1 and _YEAR.fullmatch(text)
    if is_ambiguous or not _NUMBER.fullmatch(text):
        return None
    return PhysicalTableID(int(text)) if int(text) < 1 << 63 else None
