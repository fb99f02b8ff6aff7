"""Making a bad input out of good ones."""

import random
from collections.abc import Callable, Sequence

_INTERESTING = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff" * 8, b"\x00" * 8, b"\xff\xff\xff\x7f")


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of `seeds`, changed in one to four ways; or, now and then, bytes of no shape at all."""
    if rng.random() < 0.02:
        return rng.randbytes(rng.randrange(64))
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 4)):
        rng.choice(_MUTATIONS)(rng, data, seeds)
    return bytes(data)


def _flip(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _overwrite(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at, value = rng.randrange(len(data) + 1), rng.choice(_INTERESTING)
    data[at : at + len(value)] = value


def _insert(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(_INTERESTING)


def _delete(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.randrange(1, 9)]


def _truncate(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _repeat(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = data[at : at + rng.randrange(1, 17)]


def _splice(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = rng.choice(seeds)
    cut = rng.randrange(len(other) + 1)
    data[rng.randrange(len(data) + 1) :] = other[cut:]


_MUTATIONS: tuple[Callable[[random.Random, bytearray, Sequence[bytes]], None], ...] = (
    _flip,
    _set,
    _overwrite,
    _insert,
    _delete,
    _truncate,
    _repeat,
    _splice,
)
