"""The calls of the API by name: the role they require, their request and their response.

Every transport (a socket, Flight, gRPC, in process) goes through `METHODS`, so a caller's role is
checked in one place: `Method.check`.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from pyspark_theflash.base.errors import RoleError, UnknownMethodError
from pyspark_theflash.service.wire.message import SIGNATURES

REQUEST_BYTES_MAX: Final = 8 << 20
UNARY_BYTES_MAX: Final = 1 << 20
"""The size limit of requests over gRPC and Flight, and of the same calls over a socket."""


class Role(IntEnum):
    """The role of a caller; each includes those below it. The value is on the wire."""

    READ = 1
    WRITE = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Method:
    """A call of the API.

    Attributes:
        name: the call's name in `protos/theflash/v1/theflash.proto`.
        role: the role that it requires.
        request: the class of its request.
        response: the class of its response.
        attribute: the method of `Service` that answers it.
        gives_rows: rows are returned, as a stream.
        takes_rows: rows follow the request.
        of_writer: it belongs to a writer elsewhere, whose calls come on one connection.
        is_latch: it acquires, renews or releases a latch.
    """

    name: str
    role: Role
    request: type[Any]
    response: type[Any]
    attribute: str
    gives_rows: bool = False
    takes_rows: bool = False
    of_writer: bool = False
    is_latch: bool = False

    @property
    def is_unary(self) -> bool:
        """Whether it has one request, one response and no rows."""
        return not (self.gives_rows or self.takes_rows or self.of_writer)

    @property
    def bytes_max(self) -> int:
        """The size limit of its request: larger if that lists tickets, or writes."""
        is_large = self.gives_rows or self.role is Role.WRITE
        return REQUEST_BYTES_MAX if is_large else UNARY_BYTES_MAX

    @property
    def may_repeat(self) -> bool:
        """Whether the call may be repeated after an error whose outcome is unknown."""
        return self.role is Role.READ and not self.is_latch

    def check(self, role: Role) -> None:
        """Raise `RoleError` unless the role includes the call's."""
        if role < self.role:
            raise RoleError(self.name, self.role.name.lower(), role.name.lower())


def method(name: str) -> Method:
    """Return the call of that name. Raises `UnknownMethodError`."""
    if name not in METHODS:
        raise UnknownMethodError(name[:80])
    return METHODS[name]


def _method(name: str, role: Role, attribute: str = "", **flags: bool) -> Method:
    snake_case = re.sub("(?<!^)(?=[A-Z])", "_", name).lower()
    request, response = SIGNATURES[name]
    return Method(name, role, request, response, attribute or snake_case, **flags)


COMMAND: Final = "command"
"""The method of `Service` that answers all calls that are commands to the store's writer."""
_READ: Final = (
    *("TakeSnapshot", "RenewSnapshot", "ReleaseSnapshot", "ListTables", "DescribeTable"),
    *("PrepareRead", "PlanScan", "ComputeDigest", "GetStatus", "ListRegions"),
)
# The role of a latch's kind is checked where the call is answered (`service/api/latches.py`).
_LATCHES: Final = ("AcquireLatch", "RenewLatch", "ReleaseLatch")
_ADMIN: Final = ("Pin", "ListLatches", "RemoveLatch")
_COMMANDS: Final = (
    *("Compact", "Flush", "SplitRegion", "MergeRegions", "MoveRegion", "CopyRegion"),
    *("PurgeRegion", "CollectGarbage", "SetRetention", "SetInterval", "StopWriter"),
)
SCAN: Final = _method("Scan", Role.READ, gives_rows=True)
WRITE: Final = _method("Write", Role.WRITE, takes_rows=True)
OPEN_WRITER: Final = _method("OpenWriter", Role.WRITE, of_writer=True)
READ_RECORDS: Final = _method("ReadRecords", Role.WRITE, of_writer=True, gives_rows=True)
READ_VERSIONS: Final = _method("ReadVersions", Role.WRITE, of_writer=True, gives_rows=True)
PUBLISH: Final = _method("Publish", Role.WRITE, of_writer=True, takes_rows=True)
COMPACT_TABLES: Final = _method("CompactTables", Role.WRITE, of_writer=True)
MAINTAIN: Final = _method("Maintain", Role.WRITE, of_writer=True)
METHODS: Final = {
    each.name: each
    for each in (
        *(_method(name, Role.READ) for name in _READ),
        *(_method(name, Role.READ, is_latch=True) for name in _LATCHES),
        *(SCAN, WRITE, OPEN_WRITER, READ_RECORDS, READ_VERSIONS, PUBLISH, COMPACT_TABLES, MAINTAIN),
        *(_method(name, Role.ADMIN) for name in _ADMIN),
        *(_method(name, Role.ADMIN, COMMAND) for name in _COMMANDS),
    )
}
