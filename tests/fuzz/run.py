"""Running one parser over mutated inputs: typed errors only, each within its time and memory."""

import random
import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pyspark_theflash.errors import InternalError, TheFlashError
from tests.fuzz.mutate import mutated

MOST_SECONDS = 1.0
MOST_MIB = 256


@dataclass(frozen=True)
class Target:
    """A parser of bytes, and inputs that are right."""

    name: str
    seeds: Sequence[bytes]
    parse: Callable[[bytes], object]


@dataclass
class Findings:
    """What became of the inputs: the outcomes by name, and the failures with their input."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, bytes]] = field(default_factory=list)
    slowest_s: float = 0.0
    grown_mib: float = 0.0


def fuzz(target: Target, inputs: int, seed: int) -> Findings:
    """Parse `inputs` mutations of the target's seeds, the same ones for the same `seed`."""
    rng, findings = random.Random(f"{target.name} {seed}"), Findings()
    for data in target.seeds:
        target.parse(data)
    before = _peak_mib()
    for _ in range(inputs):
        data = mutated(rng, target.seeds)
        started = time.perf_counter()
        outcome = _outcome(target, data)
        seconds = time.perf_counter() - started
        findings.outcomes[outcome.removeprefix("!")] += 1
        findings.slowest_s = max(findings.slowest_s, seconds)
        if outcome.startswith("!") or seconds > MOST_SECONDS:
            findings.failures.append((f"{outcome} after {seconds:.3f} s", data))
    findings.grown_mib = _peak_mib() - before
    if findings.grown_mib > MOST_MIB:
        findings.failures.append((f"{findings.grown_mib:.0f} MiB more than before", b""))
    return findings


def _outcome(target: Target, data: bytes) -> str:
    try:
        target.parse(data)
    except InternalError as error:
        return f"!{error!r}"
    except TheFlashError as error:
        str(error)
        return type(error).__name__
    except BaseException as error:  # noqa: BLE001 (what this looks for)
        return f"!{error!r}"
    return "parsed"


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
