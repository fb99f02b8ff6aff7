"""Handles are found as a dictionary would find them."""

from bisect import bisect_left

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.storage.engine.magic.handles import SortedHandles, first_from

INTEGERS = st.sampled_from([-(2**63), -(2**63) + 1, -1, 0, 1, 2**63 - 1]) | st.integers(-9, 9)


def encoded(text: bytes, zeros: int, tail: int) -> bytes:
    """Return a handle with its length first, so that none is a prefix of another, as in TiDB."""
    body = text + bytes(zeros) + b"t" * tail
    return len(body).to_bytes(2, "big") + body


BINARIES = st.builds(
    encoded, st.binary(max_size=2), st.integers(0, 12), st.sampled_from([0, 1, 60, 61, 900])
)


def check(stored: list[object], wanted: set[object], tp: pa.DataType) -> None:
    stored = sorted(stored)  # type: ignore[type-var]
    keys = sorted(wanted)  # type: ignore[type-var]
    # Slices of longer arrays: a column of a record batch may have any offset.
    handles = pa.array(stored[:1] + stored, tp)[bool(stored) :]
    rows = SortedHandles(handles).last_rows(pa.array(keys[:1] + keys, tp)[bool(keys) :])
    last = {handle: row for row, handle in enumerate(stored)}
    assert rows.tolist() == [last.get(handle, -1) for handle in keys]
    for handle in keys:
        assert first_from(handles, handle) == bisect_left(stored, handle)  # type: ignore[type-var]
    assert first_from(handles, None) == 0


@given(st.lists(INTEGERS, max_size=30), st.sets(INTEGERS, max_size=30))
def test_integers(stored: list[object], wanted: set[object]) -> None:
    check(stored, wanted, pa.int64())


@given(st.lists(BINARIES, max_size=30), st.sets(BINARIES, max_size=30))
def test_binaries(stored: list[object], wanted: set[object]) -> None:
    check(stored, wanted, pa.binary())


def test_a_few_long_handles_do_not_widen_all() -> None:
    stored = [encoded(b"%06d" % n, 0, 0) for n in range(10_000)]
    stored += [encoded(b"%06d" % n, 0, 3000) for n in (1, 2, 2, 5)]
    sorted_handles = SortedHandles(pa.array(sorted(stored), pa.binary()))
    assert sorted_handles.nbytes < 1_000_000
    check(stored, {*stored[::2], *stored[-4:], encoded(b"%06d" % 3, 0, 3000)}, pa.binary())
