"""Mutation of valid inputs: of bytes, of JSON and SQL by their structure, of files."""

import json
import random
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

Mutate = Callable[[random.Random], bytes]
"""The next input."""

_WORDS: Final = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff" * 8,
    b"\x00" * 8,
    b"\x7f" + b"\xff" * 7,
    b"\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff\x0f",
    b"\xff" * 9 + b"\x01",
)
TEXT_WORDS: Final = (
    b"-",
    b".",
    b"e",
    b"0",
    b"9",
    b" ",
    b",",
    b":",
    b"'",
    b'"',
    b"\\",
    b"\n",
    b"\x00",
    b"\xc3",
    b"\xed\xa0\x80",
    "é٣".encode(),
    b"e999999999",
    b"e9223372036854775807",
    b"0." + b"7" * 5000,
    b"E-99999",
    b"9" * 20,
    b"1" * 330,
    b"7" * 5000,
    b"18446744073709551616",
    b"-9223372036854775809",
    b"9999-12-31",
    b"0000-00-00",
    b"nan",
    b"Infinity",
)
"""Unusual parts of a text."""
JSON_WORDS: Final = (
    *TEXT_WORDS,
    b"[",
    b"]",
    b"{",
    b"}",
    b"null",
    b"true",
    b"[" * 20_000,
    b'{"a":' * 20_000,
    b'"\\ud800"',
    b"NaN",
    b"1e999",
)
_SQL: Final = re.compile(rb"[\w$]+|'[^']*'|`[^`]*`|\s+|.", re.DOTALL)
_PARENTHESES: Final = re.compile(rb"\([^()]*\)")
_PATCH: Final = struct.Struct("<IB")
_GROWN_BYTES: Final = 1 << 16
_HOW_OFTEN: Final = (1, 1, 1, 1, 2, 3, 4)
"""Mostly once: an input with one error gets further than one with several."""
_VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    -1,
    0,
    1,
    5,
    255,
    2**31,
    2**63,
    2**64,
    -(2**63) - 1,
    10**30,
    0.5,
    -1e300,
    float("inf"),
    float("nan"),
    "",
    "x",
    "10",
    "-1",
    "9" * 40,
    "\ud800",
    "\0",
    "é",
    "a/b",
    "..",
    "eHg=",
    [],
    [[]],
    [None],
    ["x", 1],
    {},
    {"O": 1},
    {"O": "x", "L": "x"},
    {"id": 1},
)


def bytes_like(seeds: Sequence[bytes], words: Sequence[bytes] = _WORDS) -> Mutate:
    """One of `seeds`, changed in one to four ways; now and then with a piece of it that comes
    thousands of times, or bytes of no shape at all.
    """

    def mutate(rng: random.Random) -> bytes:
        if rng.random() < 0.01:
            return rng.randbytes(rng.randrange(64))
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice(_HOW_OFTEN)):
            rng.choice(_MUTATIONS)(rng, data, seeds, words)
        if rng.random() < 0.002:
            _grow(rng, data)
        return bytes(data)

    return mutate


def patch_like(content: bytes) -> Mutate:
    """Patches, for `patched`, of what is large: of one to four places where it is not zero."""
    places = [at for at, byte in enumerate(content) if byte]

    def mutate(rng: random.Random) -> bytes:
        patches = b""
        for _ in range(rng.choice(_HOW_OFTEN)):
            at = rng.choice(places)
            word = bytearray(content[at : at + 1])
            rng.choice((_flip, _set, _overwrite))(rng, word, (), _WORDS)
            patches += b"".join(_PATCH.pack(at + n, byte) for n, byte in enumerate(word))
        return patches

    return mutate


def patched(content: bytes, patches: bytes) -> bytes:
    """The content with other bytes in places: u32 place | u8 byte, each."""
    data = bytearray(content)
    whole = len(patches) // _PATCH.size * _PATCH.size
    for at, byte in _PATCH.iter_unpack(patches[:whole]):
        if at < len(data):
            data[at] = byte
    return bytes(data)


def json_like(documents: Sequence[Any]) -> Mutate:
    """JSON with one to four values of it changed; now and then its bytes."""
    texts = [json.dumps(document).encode() for document in documents]
    broken = bytes_like(texts, JSON_WORDS)

    def mutate(rng: random.Random) -> bytes:
        if rng.random() < 0.2:
            return broken(rng)
        document = rng.choice(documents)
        for _ in range(rng.choice(_HOW_OFTEN)):
            document = changed_json(rng, document)
        return json.dumps(document).encode()

    return mutate


def sql_like(seeds: Sequence[bytes], words: Sequence[bytes]) -> Mutate:
    """SQL with some of its tokens, or all of a parenthesis, replaced; now and then its bytes."""
    broken = bytes_like(seeds, words)
    tokens = [_SQL.findall(seed) for seed in seeds]
    groups = [g for seed in seeds for g in _PARENTHESES.findall(seed)]
    distinct = sorted({token for each in tokens for token in each})
    pool = [*distinct, *words, *groups]
    alike = defaultdict(list)
    for token in distinct:
        alike[_is_operand(token)].append(token)

    def mutate(rng: random.Random) -> bytes:
        if rng.random() < 0.2:
            return broken(rng)
        text = list(rng.choice(tokens))
        for _ in range(rng.choice(_HOW_OFTEN)):
            at, dice = rng.randrange(len(text) + 1), rng.random()
            if dice < 0.6:
                text[at : at + 1] = [rng.choice(alike[_is_operand(b"".join(text[at : at + 1]))])]
            elif dice < 0.75:
                text[at : at + 1] = [rng.choice(pool)]
            elif dice < 0.9:
                text.insert(at, rng.choice(pool))
            else:
                del text[at : at + 1]
        return b"".join(text)

    return mutate


def _is_operand(token: bytes) -> bool:
    return token[:1] in (b"`", b"'") or token[:1].isdigit()


def changed_json(rng: random.Random, value: Any) -> Any:
    """A copy with something in it replaced, left out, put in or put twice."""
    if isinstance(value, Mapping) and value:
        return _changed_object(rng, value)
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return _changed_array(rng, value)
    return rng.choice(_VALUES)


def _changed_object(rng: random.Random, value: Mapping[str, Any]) -> Any:
    copy, key, dice = dict(value), rng.choice(list(value)), rng.random()
    if dice < 0.05:
        return rng.choice(_VALUES)
    if dice < 0.12:
        del copy[key]
    elif dice < 0.25:
        copy[key] = rng.choice(_VALUES)
    elif dice < 0.30:
        copy[key] = copy[rng.choice(list(value))]
    else:
        copy[key] = changed_json(rng, copy[key])
    return copy


def _changed_array(rng: random.Random, value: Sequence[Any]) -> Any:
    copy, at, dice = list(value), rng.randrange(len(value)), rng.random()
    if dice < 0.05:
        return rng.choice(_VALUES)
    if dice < 0.15:
        del copy[at]
    elif dice < 0.25:
        copy.insert(at, copy[rng.randrange(len(copy))])
    elif dice < 0.30:
        copy.append(rng.choice(_VALUES))
    else:
        copy[at] = changed_json(rng, copy[at])
    return copy


_Mutation = Callable[[random.Random, bytearray, Sequence[bytes], Sequence[bytes]], None]


def _flip(rng: random.Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _overwrite(
    rng: random.Random, data: bytearray, _: Sequence[bytes], words: Sequence[bytes]
) -> None:
    at, value = rng.randrange(len(data) + 1), rng.choice(words)
    data[at : at + len(value)] = value


def _insert(
    rng: random.Random, data: bytearray, _: Sequence[bytes], words: Sequence[bytes]
) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(words)


def _delete(rng: random.Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.randrange(1, 9)]


def _truncate(rng: random.Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _repeat(rng: random.Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = data[at : at + rng.randrange(1, 17)]


def _grow(rng: random.Random, data: bytearray) -> None:
    """Repeat a piece, so that parsers with superlinear time become noticeably slow."""
    at = rng.randrange(len(data) + 1)
    piece = data[at : at + rng.randrange(1, 33)]
    data[at:at] = piece * (_GROWN_BYTES // max(1, len(piece)))


def _splice(
    rng: random.Random, data: bytearray, seeds: Sequence[bytes], _: Sequence[bytes]
) -> None:
    other = rng.choice(seeds)
    cut = rng.randrange(len(other) + 1)
    data[rng.randrange(len(data) + 1) :] = other[cut:]


_MUTATIONS: Final[tuple[_Mutation, ...]] = (
    _flip,
    _set,
    _overwrite,
    _insert,
    _delete,
    _truncate,
    _repeat,
    _splice,
)
