"""The key index does what a dictionary does."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.engine.magic.key_index import KeyIndex, handle_keys

INTEGERS = st.sampled_from([-(2**63), -(2**63) + 1, -1, 0, 1, 2**63 - 1]) | st.integers(-9, 9)
# The length comes first, so none is a prefix of another, as with encoded handles.
BINARIES = st.builds(
    lambda text, zeros: bytes([len(text) + zeros + 1]) + text + bytes(zeros),
    st.binary(max_size=2),
    st.integers(0, 12),
)


def steps(handles: st.SearchStrategy[object]) -> st.SearchStrategy[list[list[tuple[object, bool]]]]:
    """Batches of handles, each once, and whether the row lives after it."""
    one = st.dictionaries(handles, st.booleans(), max_size=12)
    return st.lists(one.map(lambda batch: list(batch.items())), max_size=12)


def check(batches: Sequence[Sequence[tuple[object, bool]]], tp: pa.DataType) -> None:
    index, model = KeyIndex(), dict[object, tuple[int, int]]()
    for number, unsorted in enumerate(batches):
        batch = sorted(unsorted)
        handles = [handle for handle, _ in batch]
        # A slice of a longer array: what comes out of a record batch may start anywhere.
        keys = handle_keys(pa.array(handles[:1] + handles, tp)[bool(handles) :])
        places = index.take(keys)
        found = zip(places.found, places.files, places.rows, strict=True)
        for handle, (is_found, file, row) in zip(handles, found, strict=True):
            expected = model.pop(handle, None)
            assert ((int(file), int(row)) if is_found else None) == expected, handle
        lives = np.array([alive for _, alive in batch], np.bool_)
        rows = np.flatnonzero(lives).astype(np.uint32)
        index.add(keys[lives], number, rows)
        model.update({handles[row]: (number, int(row)) for row in rows})


@given(batches=steps(INTEGERS))
def test_integer_handles(batches: list[list[tuple[object, bool]]]) -> None:
    check(batches, pa.int64())


@given(batches=steps(BINARIES))
def test_binary_handles(batches: list[list[tuple[object, bool]]]) -> None:
    check(batches, pa.binary())
