"""Records of what was compared with TiKV."""

import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import TableID, TimeStamp
from pyspark_theflash.storage.store.compared import (
    COMPARED_KIND,
    IMPORTS_KIND,
    compared_of,
    compared_record,
    imports_record,
    imports_revision,
)
from pyspark_theflash.storage.store.manifest import Generation, Record, View


def view(*records: Record) -> View:
    kinds: dict[str, dict[str, bytes]] = {}
    for record in records:
        kinds.setdefault(record.kind, {})[record.key] = record.body
    return View(Generation(1), {COMPARED_KIND: {}, IMPORTS_KIND: {}, **kinds})


def test_records_round_trip() -> None:
    assert (compared_of(view()), imports_revision(view())) == ({}, None)
    stored = view(compared_record(TableID(7), TimeStamp(1 << 63)), imports_record(12))
    assert compared_of(stored) == {7: 1 << 63}
    assert imports_revision(stored) == 12


@pytest.mark.parametrize("body", [b"", b"{}", b'"1"', b"-1", b"[", b"1.5"])
def test_damaged_records(body: bytes) -> None:
    with pytest.raises(CodecError):
        compared_of(view(Record(COMPARED_KIND, "7", body)))


def test_a_damaged_revision() -> None:
    with pytest.raises(CodecError):
        imports_revision(view(Record(IMPORTS_KIND, "", b"{}")))
