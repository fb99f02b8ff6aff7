"""Captured kvrpcpb requests from TiDB to TiKV, decoded by hand.

The project's own stubs do not have all fields that are needed here, so messages are decoded to
fields by number, each a list of numbers or bytes.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark_theflash.base.types import TableID, TimeStamp
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.model import parse_table_info

TAP = Path(__file__).parents[1] / "fixtures" / "kv"


class Message:
    """A protobuf message without its definition."""

    def __init__(self, data: bytes) -> None:
        self.fields: dict[int, list[Any]] = {}
        at = 0
        while at < len(data):
            tag, at = _varint(data, at)
            value: Any
            if tag & 7 == 0:
                value, at = _varint(data, at)
            elif tag & 7 == 2:
                size, at = _varint(data, at)
                value, at = data[at : at + size], at + size
            else:
                raise ValueError(f"wire type {tag & 7}")
            self.fields.setdefault(tag >> 3, []).append(value)

    def number(self, field: int) -> int:
        return int(self.fields.get(field, [0])[-1])

    def bytes(self, field: int) -> bytes:
        return bytes(self.fields.get(field, [b""])[-1])

    def many(self, field: int) -> list[Any]:
        return self.fields.get(field, [])

    def messages(self, field: int) -> list["Message"]:
        return [Message(each) for each in self.many(field)]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


@dataclass(frozen=True)
class Call:
    """One call: its name, request and response."""

    line: int
    rpc: str
    request: Message
    answer: Message


def calls() -> Iterator[Call]:
    """All calls, in order."""
    with gzip.open(TAP / "tap.jsonl.gz", "rt") as file:
        for number, line in enumerate(file):
            entry = json.loads(line)
            if not entry["err"]:
                request, answer = (Message(bytes.fromhex(entry[k])) for k in ("req", "resp"))
                yield Call(number, entry["rpc"], request, answer)


def locks() -> dict[str, Any]:
    """The remaining locks, from `locks.json`."""
    remaining: dict[str, Any] = json.loads((TAP / "locks.json").read_text())
    return remaining


def history() -> SchemaHistory:
    """The schema history of the capture, up to TiDB's last answer."""
    document = json.loads(gzip.decompress((TAP / "schema.json.gz").read_bytes()))
    truth = json.loads((TAP / "truth" / "truth.json").read_text())
    events = [
        TableEvent(
            TimeStamp(change["ts"]),
            change["db"],
            TableID(change["table_id"]),
            parse_table_info(change["db"], change["table"]),
        )
        for change in document["changes"]
        if change["kind"] == "table"
    ]
    end_ts = TimeStamp(max(point["ts"] for point in truth["points"]))
    return SchemaHistory(TimeStamp(document["start_ts"]), end_ts, events, ())
