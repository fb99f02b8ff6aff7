"""Pending entries: their records, and their recovery."""

import random

import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tikv.pending import Delta, PendingEntries, decode_delta, encode_delta
from pyspark_theflash.tikv.request import Family


def everything(pending: PendingEntries) -> dict[bytes, bytes]:
    return dict(pending.within(b"", b""))


def test_against_a_dictionary() -> None:
    """Entries and sizes after random changes, publications and restarts."""
    rng = random.Random(3)
    pending, model = PendingEntries(), dict[bytes, bytes]()
    records: list[bytes] = []
    for _ in range(400):
        changes: dict[bytes, bytes | None] = {}
        for _ in range(rng.randrange(4)):
            key = bytes([rng.randrange(20)])
            changes[key] = rng.choice([None, rng.randbytes(rng.randrange(5))])
        pending.apply(changes)
        for key, value in changes.items():
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
        if rng.random() < 0.2:
            whole = rng.random() < 0.3
            if whole:
                records.clear()
            records.append(encode_delta(Family.LOCK, pending.freeze(whole=whole)))
        if rng.random() < 0.1:
            records.append(encode_delta(Family.LOCK, pending.freeze(whole=False)))
            pending = PendingEntries()
            for record in records:
                family, delta = decode_delta(record)
                assert family is Family.LOCK
                pending.restore(delta)
        assert everything(pending) == model
        assert len(pending) == len(model)
        expected = sum(len(k) + len(v) + 128 for k, v in model.items())
        # A key that was published and put again counts twice until the next publication.
        assert expected <= pending.size_bytes <= expected + 20 * (128 + 5)
        for key in map(bytes, [[n] for n in range(20)]):
            assert pending.get(key) == model.get(key)


def test_what_came_and_went_is_never_written() -> None:
    pending = PendingEntries()
    pending.apply({b"a": b"1", b"b": b"2"})
    pending.apply({b"a": None})
    assert pending.freeze(whole=False) == Delta({b"b": b"2"}, set())
    pending.apply({b"b": None, b"c": b"3"})
    assert pending.freeze(whole=False) == Delta({b"c": b"3"}, {b"b"})
    assert pending.freeze(whole=False) == Delta({}, set())
    assert pending.freeze(whole=True) == Delta({b"c": b"3"}, ())


def test_ranges() -> None:
    pending = PendingEntries()
    pending.apply({b"a": b"", b"b": b"", b"c": b""})
    assert dict(pending.within(b"b", b"c")) == {b"b": b""}
    assert dict(pending.within(b"b", b"")) == {b"b": b"", b"c": b""}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02" + bytes(9),
        b"\x01\x09" + bytes(8),
        b"\x01\x00\xff\xff\xff\xff" + bytes(4),
        encode_delta(Family.LOCK, Delta({b"k": b"v"}, [b"d"]))[:-1],
        encode_delta(Family.LOCK, Delta({b"k": b"v"}, [b"d"])) + b"x",
    ],
)
def test_what_is_no_record(data: bytes) -> None:
    with pytest.raises(CodecError, match="pending record"):
        decode_delta(data)
