"""Binary JSON encoded one value at a time in plain Python, to compare the package with.

Values are Python's: None, bool, int, float, str, list, dict. An int from 2**63 on is unsigned.
"""

import struct
from typing import Any

from hypothesis import strategies as st

JSON = Any


def encode_json(value: JSON) -> bytes:
    """Type byte and content."""
    tp, content = _encode(value)
    return bytes([tp]) + content


def _encode(value: JSON) -> tuple[int, bytes]:
    if value is None or value is True or value is False:
        return 4, bytes([{None: 0, True: 1, False: 2}[value]])
    if isinstance(value, int):
        return (10, struct.pack("<Q", value)) if value >= 2**63 else (9, struct.pack("<q", value))
    if isinstance(value, float):
        return 11, struct.pack("<d", value)
    if isinstance(value, str):
        return 12, _prefixed(value.encode())
    if isinstance(value, list):
        return 3, _container([], value)
    pairs = sorted((key.encode(), member) for key, member in value.items())
    return 1, _container([key for key, _ in pairs], [member for _, member in pairs])


def _prefixed(raw: bytes) -> bytes:
    size, prefix = len(raw), b""
    while size > 127:
        prefix, size = prefix + bytes([size % 128 + 128]), size // 128
    return prefix + bytes([size]) + raw


def _container(keys: list[bytes], members: list[JSON]) -> bytes:
    body = b"".join(keys)
    begin = 8 + 6 * len(keys) + 5 * len(members)
    entries, at = b"", begin
    for key in keys:
        entries, at = entries + struct.pack("<IH", at, len(key)), at + len(key)
    for member in members:
        tp, content = _encode(member)
        if tp == 4:
            entries += struct.pack("<BI", 4, content[0])
        else:
            entries += struct.pack("<BI", tp, begin + len(body))
            body += content
    return struct.pack("<II", len(members), begin + len(body)) + entries + body


DOUBLES = st.floats(allow_nan=False, allow_infinity=False)
# Doubles whose text does not read back as an integer.
FRACTIONS = DOUBLES.filter(lambda x: not x.is_integer() or abs(x) >= 1e21)


def json_values(doubles: st.SearchStrategy[float] = DOUBLES) -> st.SearchStrategy[JSON]:
    """Any JSON, a few levels deep."""
    integers = st.integers(-(2**63), 2**64 - 1)
    return st.recursive(
        st.none() | st.booleans() | integers | doubles | st.text(max_size=10),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        ),
        max_leaves=8,
    )
