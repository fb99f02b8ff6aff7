"""The calls there are, by name: who may make them, and what goes in and comes out.

Whatever carries calls (a socket, Flight, nothing at all) goes through `METHODS`, so the role of a
caller is checked in one place: `Method.check`.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Final

from pyspark_theflash.base.errors import RoleError, UnknownMethodError
from pyspark_theflash.service.wire import message


class Role(IntEnum):
    """What a caller may do; each may do what those below may. The value is on the wire."""

    READ = 1
    WRITE = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Method:
    """A call; `attribute` is the method of `Service` that answers it.

    Some are answered with rows, or have some besides their request. Those `of_writer` come on one
    connection, which stays with the process that answers them.
    """

    name: str
    role: Role
    request: type
    response: type
    attribute: str
    gives_rows: bool = False
    takes_rows: bool = False
    of_writer: bool = False

    @property
    def is_unary(self) -> bool:
        """Whether one message goes in, and one comes out, whatever carries it."""
        return not (self.gives_rows or self.takes_rows or self.of_writer)

    @property
    def may_repeat(self) -> bool:
        """Whether it does no harm to make the call again where nobody knows what it came to."""
        return self.role is Role.READ and self not in _LATCHES

    def check(self, role: Role) -> None:
        """Raise `RoleError` unless a caller of that role may make the call."""
        if role < self.role:
            raise RoleError(self.name, self.role.name.lower(), role.name.lower())


def method(name: str) -> Method:
    """The call of that name. Raises `UnknownMethodError`."""
    found = METHODS.get(name)
    if found is None:
        raise UnknownMethodError(name[:80])
    return found


_READ: Final = (
    Method("TakeSnapshot", Role.READ, message.Moment, message.Snapshot, "take_snapshot"),
    Method("RenewSnapshot", Role.READ, message.SnapshotRequest, message.Snapshot, "renew_snapshot"),
    Method("ReleaseSnapshot", Role.READ, message.SnapshotRequest, message.Done, "release_snapshot"),
    Method("ListTables", Role.READ, message.TablesRequest, message.Tables, "list_tables"),
    Method("DescribeTable", Role.READ, message.TableRequest, message.Table, "describe_table"),
    Method("PrepareRead", Role.READ, message.ReadOptions, message.Reading, "prepare_read"),
    Method("PlanScan", Role.READ, message.PlanRequest, message.Plan, "plan_scan"),
    Method("Scan", Role.READ, message.ScanRequest, message.Done, "scan", gives_rows=True),
    Method("ComputeDigest", Role.READ, message.TableRequest, message.Digest, "compute_digest"),
    Method("GetStatus", Role.READ, message.StatusRequest, message.Status, "get_status"),
    Method("ListRegions", Role.READ, message.RegionsRequest, message.Regions, "list_regions"),
)
# Whoever may read may ask; what for is looked at where it is answered (`latches.py`).
_LATCHES: Final = (
    Method("AcquireLatch", Role.READ, message.AcquireRequest, message.Latch, "acquire_latch"),
    Method("RenewLatch", Role.READ, message.LatchRequest, message.Latch, "renew_latch"),
    Method("ReleaseLatch", Role.READ, message.LatchRequest, message.Done, "release_latch"),
)
WRITE: Final = Method(
    "Write", Role.WRITE, message.WriteRequest, message.Written, "write", takes_rows=True
)
_of_writer = partial(Method, role=Role.WRITE, of_writer=True)
OPEN_WRITER: Final = _of_writer(
    "OpenWriter", request=message.WriterRequest, response=message.Done, attribute="open_writer"
)
READ_RECORDS: Final = _of_writer(
    "ReadRecords",
    request=message.RecordsRequest,
    response=message.Done,
    attribute="read_records",
    gives_rows=True,
)
READ_VERSIONS: Final = _of_writer(
    "ReadVersions",
    request=message.VersionsRequest,
    response=message.Done,
    attribute="read_versions",
    gives_rows=True,
)
PUBLISH: Final = _of_writer(
    "Publish",
    request=message.PublishRequest,
    response=message.Published,
    attribute="publish",
    takes_rows=True,
)
COMPACT_TABLES: Final = _of_writer(
    "CompactTables",
    request=message.CompactTablesRequest,
    response=message.Done,
    attribute="compact_tables",
)
MAINTAIN: Final = _of_writer(
    "Maintain", request=message.MaintainRequest, response=message.Maintained, attribute="maintain"
)
_WRITE: Final = (
    WRITE,
    OPEN_WRITER,
    READ_RECORDS,
    READ_VERSIONS,
    PUBLISH,
    COMPACT_TABLES,
    MAINTAIN,
)
_ADMIN: Final = (
    Method("Pin", Role.ADMIN, message.Moment, message.Snapshot, "pin"),
    Method("ListLatches", Role.ADMIN, message.LatchesRequest, message.Latches, "list_latches"),
    Method("RemoveLatch", Role.ADMIN, message.LatchRequest, message.Done, "remove_latch"),
    Method("Compact", Role.ADMIN, message.CompactRequest, message.Done, "compact"),
    Method("Flush", Role.ADMIN, message.FlushRequest, message.Done, "flush"),
    Method("SplitRegion", Role.ADMIN, message.SplitRequest, message.Done, "split_region"),
    Method("MergeRegions", Role.ADMIN, message.MergeRequest, message.Done, "merge_regions"),
    Method("MoveRegion", Role.ADMIN, message.MoveRequest, message.Done, "move_region"),
    Method("CopyRegion", Role.ADMIN, message.MoveRequest, message.Done, "copy_region"),
    Method("PurgeRegion", Role.ADMIN, message.PurgeRequest, message.Done, "purge_region"),
    Method("CollectGarbage", Role.ADMIN, message.CollectRequest, message.Done, "collect_garbage"),
    Method("SetRetention", Role.ADMIN, message.RetentionRequest, message.Done, "set_retention"),
    Method("SetInterval", Role.ADMIN, message.IntervalRequest, message.Done, "set_interval"),
    Method("StopWriter", Role.ADMIN, message.StopRequest, message.Done, "stop_writer"),
)
METHODS: Final = {each.name: each for each in (*_READ, *_LATCHES, *_WRITE, *_ADMIN)}
SCAN: Final = METHODS["Scan"]
