"""Running one parser over mutated inputs: typed errors only, each within its time and memory.

Of one input after the other the outcome is looked at, how much of the processors it took, and
whether the process grew: its resident memory, and what Arrow has allocated. Since neither shows
what is allocated and never touched, the address space is limited as well: who asks for much more
gets a `MemoryError`, which is no typed error.
"""

import gc
import math
import random
import resource
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa

from pyspark_theflash.base.errors import InternalError, TheFlashError
from tests.fuzz.mutate import Mutate

MOST_SECONDS: Final = 1.0
MOST_BYTES: Final = 256 << 20
_ADDRESS_SPACE_BYTES: Final = 768 << 20
"""More than `MOST_BYTES`: threads reserve much that they never use."""


@dataclass(frozen=True)
class Target:
    """A parser of bytes, its valid inputs, and the mutation of these."""

    seeds: Sequence[bytes]
    mutate: Mutate
    parse: Callable[[bytes], object]


class Input(NamedTuple):
    """The `number`th mutation, from 0."""

    number: int
    data: bytes


@dataclass
class Findings:
    """Counts of outcomes by name, and the first input of each kind of failure."""

    inputs: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    slowest: int = 0
    """The number of the slowest."""
    grown_bytes: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, Input] = field(default_factory=dict)


def fuzz(target: Target, inputs: int, seed: str, seconds: float = math.inf) -> Findings:
    """Parse `inputs` mutations of the target's seeds, the same ones for the same `seed`.

    No further one is begun after so many `seconds`.
    """
    for data in target.seeds:
        target.parse(data)
    with _limited_address_space(), _frozen_garbage():
        return _fuzz(target, inputs, random.Random(seed), seconds)


def nth_input(target: Target, number: int, seed: str) -> bytes:
    """The input of this number, from 0, that `fuzz` makes."""
    rng = random.Random(seed)
    for _ in range(number):
        target.mutate(rng)
    return target.mutate(rng)


def _fuzz(target: Target, inputs: int, rng: random.Random, seconds: float) -> Findings:
    findings, memory = Findings(), _Memory()
    begun = time.perf_counter()
    for number in range(inputs):
        data = target.mutate(rng)
        wall, busy = time.perf_counter(), time.process_time()
        outcome, failure = _outcome(target, data)
        took = time.process_time() - busy
        ended = time.perf_counter()
        if ended - wall > MOST_SECONDS:
            took = max(took, _waited(target, data, ended - wall))
        grown = memory.grown_bytes()
        findings.inputs += 1
        findings.outcomes[outcome] += 1
        findings.grown_bytes = max(findings.grown_bytes, grown)
        if took > findings.slowest_s:
            findings.slowest_s, findings.slowest = took, number
        failures = [failure] if failure is not None else []
        if took > MOST_SECONDS:
            failures.append(f"slower than {MOST_SECONDS} s")
        if grown > MOST_BYTES:
            failures.append(f"more than {MOST_BYTES >> 20} MiB")
            memory = _Memory()
        for what in failures:
            findings.failures.setdefault(what, Input(number, data))
        if ended - begun > seconds:
            break
    findings.seconds = time.perf_counter() - begun
    return findings


def _waited(target: Target, data: bytes, first_s: float) -> float:
    """Return the elapsed time of an input, the shorter of two: the machine may have been busy.

    The processor time is measured in the first run only, as later ones find results in caches.
    """
    started = time.perf_counter()
    _outcome(target, data)
    return min(first_s, time.perf_counter() - started)


def _outcome(target: Target, data: bytes) -> tuple[str, str | None]:
    """Return the outcome of an input, and the failure, if it is one."""
    try:
        return _typed_outcome(target, data), None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 (what this looks for)
        return "failed", _place_of(error)


def _typed_outcome(target: Target, data: bytes) -> str:
    try:
        target.parse(data)
    except InternalError:
        raise
    except TheFlashError as error:
        str(error)
        return type(error).__name__
    return "parsed"


def _place_of(error: BaseException) -> str:
    """One text for all errors of one cause."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "pyspark_theflash" in f.filename
    ]
    if not frames:
        return f"{type(error).__name__} ({str(error)[:100]})"
    return f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}"


class _Memory:
    """The growth of the process's peak memory since the creation of this object."""

    def __init__(self) -> None:
        # Makes what is in use now the peak, where the kernel offers it: what others have used
        # before would hide what is used from now on.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._before = _peaks()

    def grown_bytes(self) -> int:
        return max(now - then for now, then in zip(_peaks(), self._before, strict=True))


def _peaks() -> tuple[int, int]:
    """The most that was resident; the most that Arrow had allocated."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return resident, int(pa.default_memory_pool().max_memory() or 0)


@contextmanager
def _frozen_garbage() -> Iterator[None]:
    """Exclude the many objects of the seeds from collections, whose time would count as parsing."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _limited_address_space() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _ADDRESS_SPACE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
