"""Running one parser over mutated inputs: typed errors only, each within its time and memory.

Of one input after the other the outcome is looked at, how long it took, and whether the process
grew: its resident memory, and what Arrow has allocated. Since neither shows what is allocated and
never touched, the address space is limited as well: who asks for much more gets a `MemoryError`,
which is no typed error.
"""

import math
import random
import resource
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa

from pyspark_theflash.errors import InternalError, TheFlashError
from tests.fuzz.mutate import Mutate

MOST_SECONDS: Final = 1.0
MOST_BYTES: Final = 256 << 20
_ADDRESS_SPACE_BYTES: Final = 768 << 20
"""More than `MOST_BYTES`: threads reserve much that they never use."""


@dataclass(frozen=True)
class Target:
    """A parser of bytes: inputs that are right, which it takes, and wrong ones made of them."""

    seeds: Sequence[bytes]
    mutate: Mutate
    parse: Callable[[bytes], object]


@dataclass
class Findings:
    """What became of the inputs: outcomes by name, and an input of each kind of failure."""

    inputs: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    grown_bytes: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, bytes] = field(default_factory=dict)


def fuzz(target: Target, inputs: int, seed: str, seconds: float = math.inf) -> Findings:
    """Parse `inputs` mutations of the target's seeds, the same ones for the same `seed`.

    No further one is begun after so many `seconds`.
    """
    for data in target.seeds:
        target.parse(data)
    with _limited_address_space():
        return _fuzz(target, inputs, random.Random(seed), seconds)


def _fuzz(target: Target, inputs: int, rng: random.Random, seconds: float) -> Findings:
    findings, clock = Findings(), time.perf_counter
    begun, before = clock(), _peak_bytes()
    deadline = begun + seconds
    ended = begun
    for _ in range(inputs):
        if ended > deadline:
            break
        data = target.mutate(rng)
        started = clock()
        outcome, failure = _outcome(target, data)
        ended = clock()
        findings.inputs += 1
        findings.outcomes[outcome] += 1
        findings.slowest_s = max(findings.slowest_s, ended - started)
        grown = _peak_bytes() - before
        if grown > findings.grown_bytes:
            findings.grown_bytes = grown
            if grown > MOST_BYTES:
                failure, before = f"{grown >> 20} MiB more", before + grown
        if ended - started > MOST_SECONDS and _is_slow(target, data):
            failure = f"slower than {MOST_SECONDS} s"
        if failure is not None:
            findings.failures.setdefault(failure, data)
    findings.seconds = clock() - begun
    return findings


def _outcome(target: Target, data: bytes) -> tuple[str, str | None]:
    """What became of an input, and what of this is a failure."""
    try:
        target.parse(data)
    except InternalError as error:
        return "failed", _place_of(error)
    except TheFlashError as error:
        str(error)
        return type(error).__name__, None
    except BaseException as error:  # noqa: BLE001 (what this looks for)
        return "failed", _place_of(error)
    return "parsed", None


def _place_of(error: BaseException) -> str:
    """One text for all errors of one cause."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "pyspark_theflash" in f.filename
    ]
    at = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return (
        f"{type(error).__name__}{at} ({str(error)[:100]})"
        if not frames
        else f"{type(error).__name__}{at}"
    )


def _is_slow(target: Target, data: bytes) -> bool:
    """Whether an input takes long, a second time: the first may have waited for the machine."""
    started = time.perf_counter()
    _outcome(target, data)
    return time.perf_counter() - started > MOST_SECONDS


def _peak_bytes() -> int:
    """The most the process has ever used, whatever has been given back since."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return max(resident, int(pa.default_memory_pool().max_memory() or 0))


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
