"""Declare, run and measure attacks.

    attacker, readers ──── processor 0          `measured`: p99, failures, memory, recovery
    the server's processes  processor 1

An attack is a function that is declared with `attack`. It returns a note for the table, and raises
`BreachError` if it succeeds. An attack with `is_load` uses up resources until `Target.goes_on` is
false, while `Observers` measure other callers.
"""

import importlib
import json
import os
import pickle
import pkgutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import tests.attack
from tests.attack.reader import Call, serve_once
from tests.attack.servers import LISTENERS, Server
from tests.support.processes import CLOCK, descendants, is_alive

ATTACKER_CPU, SERVER_CPU = 0, 1
READER_MS, ADMIN_MS, RECOVERY_MS = 1_000, 2_000, 5_000
"""The largest 99th percentile of readers and administrators, and the longest recovery."""
_SETTLE_MS = 1_000
_POLL_S = 0.1
_FINISH_S = 90
_SHORT_S = 60
"""The longest time of an attack under load in the short form; it ends when others were served."""
ALL = ("frames", "grpc", "flight")
COMMANDS = "commands"
"""The configuration of attacks that start their own commands."""


class BreachError(AssertionError):
    """An attack has succeeded."""


def breach_if(condition: object, text: str) -> None:
    """Raise `BreachError` if the condition is true."""
    if condition:
        raise BreachError(text)


@dataclass
class Target:
    """The subject and the extent of a run of an attack.

    Attributes:
        configuration: The server's configuration, or `COMMANDS`.
        at: The server; None: the attack starts its own commands.
        protocol: The protocol of the address to attack.
        folder: An empty folder.
        is_short: Whether few repetitions suffice.
        seconds: How long an attack with `is_load` lasts.
        enough: Ends it earlier.
    """

    configuration: str
    at: Server | None
    protocol: str
    folder: Path
    is_short: bool
    seconds: float
    enough: threading.Event = field(default_factory=threading.Event)
    _end_ms: int = 0

    def __post_init__(self) -> None:
        self._end_ms = CLOCK.boottime_ms() + round(self.seconds * 1000)

    @property
    def server(self) -> Server:
        """The server."""
        assert self.at is not None
        return self.at

    def from_now(self) -> "Target":
        """The same, with all its time left."""
        return replace(self, _end_ms=0)

    def goes_on(self) -> bool:
        """Whether an attack with `is_load` continues."""
        return CLOCK.boottime_ms() < self._end_ms and not self.enough.is_set()


@dataclass(frozen=True)
class Attack:
    """A declared attack.

    Attributes:
        name: The function's name, with spaces.
        kind: The module's name.
        run: The function.
        on: The configurations that it is run against; see `servers.Starter`.
        protocols: The protocols that it is run over, where a configuration has them.
        is_load: Whether it uses up resources for `Target.seconds`.
        is_short: Whether the short form includes it.
        open: Why it still succeeds; empty: it does not.
    """

    name: str
    kind: str
    run: Callable[[Target], str]
    on: tuple[str, ...]
    protocols: tuple[str, ...]
    is_load: bool
    is_short: bool
    open: str = ""

    @property
    def cases(self) -> list[tuple[str, str]]:
        """Configurations and protocols."""
        return [(name, p) for name in self.on for p in self.protocols if p in _protocols(name)]

    @property
    def short_cases(self) -> list[tuple[str, str]]:
        """Return the servers of the short form, one for each protocol."""
        first: dict[str, str] = {}
        for name, protocol in self.cases:
            first.setdefault(protocol, name)
        return [(name, protocol) for protocol, name in first.items()] if self.is_short else []


_REGISTRY: list[Attack] = []


def attack(
    *on: str,
    over: Sequence[str] = ALL,
    is_load: bool = False,
    is_short: bool = True,
    open: str = "",
) -> Callable[[Callable[[Target], str]], Callable[[Target], str]]:
    """Declare a function as an attack; see `Attack`."""

    def declare(run: Callable[[Target], str]) -> Callable[[Target], str]:
        name, kind = run.__name__.replace("_", " "), run.__module__.rpartition(".")[2]
        declared = Attack(name, kind, run, on, tuple(over), is_load, is_short, open)
        _REGISTRY.append(declared)
        return run

    return declare


def attacks() -> list[Attack]:
    """Return all attacks, of all modules of this package."""
    for module in pkgutil.iter_modules(tests.attack.__path__):
        if not module.name.startswith(("test_", "__")):
            importlib.import_module(f"{tests.attack.__name__}.{module.name}")
    return sorted(_REGISTRY, key=lambda each: each.kind)


def _protocols(configuration: str) -> tuple[str, ...]:
    return {
        "unix": ("frames",),
        "names": ("frames",),
        "learn": ("frames", "engine"),
        "pump": ("pump", "metrics"),
        "pump_mtls": ("pump",),
        COMMANDS: (*ALL, "engine", "pump", "sql", "library", "client"),
    }.get(configuration, ALL)


def reached(protocol: str) -> list[Attack]:
    """Return the attacks that reach a protocol."""
    return [each for each in attacks() if any(p == protocol for _, p in each.cases)]


@dataclass
class Result:
    """The outcome of an attack on one address. Times are in milliseconds, sizes in MiB."""

    attack: Attack
    configuration: str
    protocol: str
    note: str = ""
    breaches: list[str] = field(default_factory=list)
    took_ms: int = 0
    reader_p99_ms: int | None = None
    newcomer_p99_ms: int | None = None
    admin_p99_ms: int | None = None
    failures: int | None = None
    calls: int | None = None
    memory_mib: int | None = None
    recovery_ms: int | None = None

    def row(self) -> list[str]:
        """Return the cells of a table."""
        times = (self.reader_p99_ms, self.newcomer_p99_ms, self.admin_p99_ms)
        lost = None if self.calls is None else f"{self.failures}/{self.calls}"
        outcome = "; ".join(self.breaches) or "held"
        cells = [f"{self.attack.kind}: {self.attack.name}", self.configuration, self.protocol]
        numbers = (*times, lost, self.memory_mib, self.recovery_ms)
        cells += ["" if each is None else str(each) for each in numbers]
        return [each.replace("|", "/").replace("\n", " ") for each in (*cells, outcome, self.note)]


HEADINGS = (
    *("attack", "server", "protocol", "reader p99", "newcomer p99", "admin p99", "failed"),
    *("MiB", "recovery", "outcome", "note"),
)


def table(results: Sequence[Result]) -> str:
    """Return the results as a table in Markdown."""
    rows = [list(HEADINGS), ["---"] * len(HEADINGS), *(each.row() for each in results)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def run(target: Target, declared: Attack) -> Result:
    """Run one attack; a breach is in the result."""
    result = Result(declared, target.configuration, target.protocol)
    try:
        if target.at is None:
            result.note = declared.run(target)
            return result
        before = set(target.at.pids)
        with Memory(target.at) as memory:
            if not declared.is_load:
                result.note = declared.run(target)
            elif target.is_short:
                _served_beside(target, declared, result)
            else:
                _measured(target, declared, result)
        result.memory_mib = memory.peak_mib
        # In the short form, an earlier attack may have left the process large.
        limit_mib = target.at.memory_mib
        is_over = memory.peak_mib > limit_mib >= memory.before_mib
        breach_if(is_over, f"{memory.peak_mib} MiB of {limit_mib}")
        breach_if(not all(map(is_alive, before)), "a process has ended")
        breach_if("Traceback" in target.at.log, "a traceback in the log")
    except BreachError as breach:
        result.breaches.append(str(breach))
    return result


def _served_beside(target: Target, declared: Attack, result: Result) -> None:
    """Run an attack in a thread until all others were served, and call them again afterwards."""
    failures: list[Exception] = []

    def attacking() -> None:
        try:
            result.note = declared.run(replace(target, seconds=_SHORT_S, _end_ms=0))
        except Exception as error:  # noqa: BLE001 (raised below)
            failures.append(error)

    thread = threading.Thread(target=attacking)
    thread.start()
    CLOCK.sleep_ms(round(target.seconds * 1000))
    errors = [f"during the attack, {each}" for each in serve_once(target.server, target.protocol)]
    target.enough.set()
    thread.join()
    for error in failures:
        raise error
    errors += [f"afterwards, {each}" for each in serve_once(target.server, target.protocol)]
    result.breaches += errors


def _measured(target: Target, declared: Attack, result: Result) -> None:
    """Run an attack beside observers, and wait for the server's recovery."""
    with Observers(target.server, target.protocol) as observers:
        CLOCK.sleep_ms(_SETTLE_MS)
        start_ms = CLOCK.boottime_ms()
        try:
            result.note = declared.run(target.from_now())
        except BreachError as breach:
            result.breaches.append(str(breach))
        end_ms = CLOCK.boottime_ms()
        CLOCK.sleep_ms(RECOVERY_MS + _SETTLE_MS)
    calls = observers.calls
    during = [each for each in calls if start_ms <= each[1] + each[2] and each[1] <= end_ms]
    result.calls, result.failures = len(during), sum(bool(each[3]) for each in during)
    result.reader_p99_ms = _p99(during, "reader")
    result.newcomer_p99_ms = _p99(during, "newcomer")
    result.admin_p99_ms = _p99(during, "admin")
    bad = [each for each in calls if each[1] > end_ms and (each[3] or each[2] > READER_MS)]
    late = [each for each in calls if each[1] <= end_ms < each[1] + each[2]]
    result.recovery_ms = max([0, *(each[1] + each[2] - end_ms for each in (*bad, *late))])
    for who in ("reader", "newcomer", "admin"):
        errors = sorted({each[3] for each in during if each[0] == who and each[3]})
        if errors:
            result.breaches.append(f"{who}: {errors[0]}")
    limits = ((result.reader_p99_ms, READER_MS), (result.admin_p99_ms, ADMIN_MS))
    if any(value is not None and value > limit for value, limit in limits):
        result.breaches.append("others are served too late")
    if result.recovery_ms > RECOVERY_MS:
        who, start, took_ms, error = max((*bad, *late), key=lambda each: each[1] + each[2])
        when_ms = start - end_ms
        result.breaches.append(f"no recovery: {who} at {when_ms} ms took {took_ms} ms {error}")


def _p99(calls: Sequence[Call], who: str) -> int | None:
    times = sorted(each[2] for each in calls if each[0] == who)
    return times[min(len(times) - 1, len(times) * 99 // 100)] if times else None


class Memory:
    """The peak of the resident memory of any process of a server, during a block, in MiB."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.peak_mib = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Memory":
        for pid in self._server.pids:
            with suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")
        self.before_mib = max(map(peak_mib, self._server.pids))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        has_ended = False
        while not has_ended:
            has_ended = self._ended.wait(_POLL_S)
            peaks = [peak_mib(pid) for pid in self._server.pids]
            self.peak_mib = max(self.peak_mib, *peaks)


def peak_mib(pid: int) -> int:
    """Return the peak of a process's resident memory; 0 if it has ended."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) >> 10
    return 0


class Observers:
    """A process with callers of a server; `calls` are available after the block."""

    def __init__(self, server: Server, protocol: str) -> None:
        command = [sys.executable, "-m", "tests.attack.reader", protocol]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        plain = replace(server, process=None)  # type: ignore[arg-type]
        data = pickle.dumps(plain)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{len(data)}\n".encode() + data)
        self._process.stdin.flush()
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self.calls: list[Call] = []

    def __enter__(self) -> "Observers":
        return self

    def __exit__(self, *_: object) -> None:
        output, _ = self._process.communicate(timeout=_FINISH_S)
        self.calls = [tuple(each) for each in json.loads(output)]


@dataclass
class Ran:
    """A command that an attack has run to its end."""

    status: int | None
    output: str
    took_ms: int
    memory_mib: int


def run_command(command: Sequence[str], timeout_s: float, **options: object) -> Ran:
    """Run a command, and measure its processes. `status` is None if it was killed."""
    start_ms = CLOCK.boottime_ms()
    peak, status = 0, None
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    output: list[str] = []
    reading = threading.Thread(target=lambda: output.append(process.stdout.read()), daemon=True)
    reading.start()
    while (status := process.poll()) is None:
        peak = max(peak, *map(peak_mib, [process.pid, *descendants(process.pid)]))
        if CLOCK.boottime_ms() - start_ms > timeout_s * 1000:
            for pid in (*descendants(process.pid), process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
            process.wait()
            break
        CLOCK.sleep_ms(50)
    reading.join(5)
    process.stdout.close()
    return Ran(status, "".join(output), CLOCK.boottime_ms() - start_ms, peak)


def unattacked() -> Iterator[str]:
    """Yield the listeners that no attack reaches."""
    for name, protocols in LISTENERS.items():
        if not all(map(reached, protocols)):
            yield name
