"""A server of the API's own protocol in several processes: a router and its workers.

    callers ──► router ── a connection with a pending call ──► the worker with the fewest
                  ▲                                              │
                  └── no call in progress, or connection ended ──┘

Python runs one thread of a process at a time, so concurrent calls need several processes. Calls and
not connections are distributed, because callers pool connections and use them in turn: a connection
without a call stays in the router, and its next call goes to the worker that serves the fewest
connections. Another worker is started if a call arrives while all are busy, so a single caller has
a single worker. A connection with TLS stays in the worker that made the handshake, because the
state of TLS cannot be passed on; with TLS, all workers are therefore started at once.

The router keeps a descriptor of each connection. If a worker dies, its connections are closed and
others are not affected. It is replaced when another worker is needed, after a delay that grows with
repeated failures.

Processes share nothing else: tickets, latches and commands are in the store, and the store's lock
decides which process writes.
"""

import contextlib
import itertools
import logging
import pickle
import selectors
import socket
import subprocess
import threading
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import ServiceUnavailableError
from pyspark_theflash.base.memory import resident_bytes
from pyspark_theflash.base.process import start_module
from pyspark_theflash.base.tls import ServerTls
from pyspark_theflash.net.bind import bind, check_names, check_safe
from pyspark_theflash.service.server.admission import Admission
from pyspark_theflash.service.server.control import (
    DRAIN_MS,
    ControlMessage,
    ControlOp,
    Greeted,
    UsageReport,
    WorkerSettings,
    receive_control,
    send_control,
)

_log = logging.getLogger(__name__)

_WORKER: Final = "pyspark_theflash.service.server.worker"
_POLL_S: Final = 0.2
_UPKEEP_MS: Final = 200
_START_MS: Final = 60_000
_STEADY_MS: Final = 10_000
"""A worker that ran this long did not fail at its start."""
_BACK_OFF_MS: Final = 100
_BACK_OFF_MS_MAX: Final = 5_000
_FAILURES_MAX: Final = 10
_STOP_MS: Final = 6_000
"""The time for workers to end after their calls: 5 s of `Sessions.stop`, and 1 s."""
_REAP_S: Final = 1.0


@dataclass(slots=True, eq=False)
class _Connection:
    """A caller's connection.

    It is closed at `deadline_ms` if it is in the router then, and at `pending_until_ms` if its
    caller is not authenticated then.
    """

    number: int
    sock: socket.socket
    deadline_ms: int
    pending_until_ms: int
    greeted: Greeted | None = None
    is_silent: bool = True
    """Whether nothing has been received."""

    @property
    def is_closed(self) -> bool:
        return self.sock.fileno() < 0


@dataclass(slots=True, eq=False)
class _Worker:
    """A process, and the connections that it serves, by number."""

    process: "subprocess.Popen[bytes]"
    control: socket.socket
    started_ms: int
    is_ready: bool = False
    usage: UsageReport = field(default_factory=UsageReport)
    connections: dict[int, _Connection] = field(default_factory=dict)

    def send(self, message: ControlMessage, connection: socket.socket | None = None) -> bool:
        """Send a message; returns False if the worker has ended."""
        try:
            send_control(self.control, message, connection)
        except OSError:
            return False
        return True

    def end(self) -> int | None:
        """Make sure that the process ends; returns its exit status."""
        self.control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(_REAP_S)
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(_REAP_S)
        return None


class ConnectionRouter:
    """A server with one listening socket; see the module and `SocketServer`."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        workers: int,
        clock: Clock,
    ) -> None:
        """Listen on the settings' address; connections are accepted after `start`.

        Args:
            settings: Settings of the workers.
            workers: The largest number of workers.
            clock: The clock of timeouts.

        Raises:
            OptionError: The address or the certificates cannot be used, or not safely.
        """
        tls = settings.tls
        has_tokens = settings.tokens is not None
        check_safe(settings.address, has_tls=tls is not None, has_tokens=has_tokens)
        check_names(settings.allowed_names, tls)
        if tls is not None:
            tls.context()  # raises if it is invalid
        self._clock, self._workers_max = clock, workers
        # With TLS, connections cannot move to workers that are started later.
        self._workers_min = 1 if tls is None else workers
        self._bound = bind(settings.address)
        self._bound.sock.setblocking(False)
        self.address = self._bound.address
        """The listening address, with the actual port if the settings have port 0."""
        self._settings = replace(settings, address=self.address)
        self._selector = selectors.DefaultSelector()
        self._numbers = itertools.count(1)
        self._workers: list[_Worker] = []
        self._connections: set[_Connection] = set()
        self._admission: Admission[_Connection] = Admission(settings.limits, self.address, clock)
        self._unanswered: list[_Connection] = []
        """Connections with a pending call that no worker was ready for."""
        self._failures, self._start_after_ms, self._upkeep_at_ms = 0, 0, 0
        self._idle_since_ms: int | None = clock.boottime_ms()
        self._drain_ms: int | None = None
        self._thread = threading.Thread(target=self._run, name="front", daemon=True)

    def start(self) -> None:
        """Start the first worker, with TLS all of them, and accept connections.

        Raises:
            ServiceUnavailableError: A worker does not start. It has logged the reason.
        """
        deadline = Deadline(self._clock, _START_MS)
        for _ in range(self._workers_min):
            self._add_worker()
        while sum(worker.is_ready for worker in self._workers) < self._workers_min:
            if not deadline.left_ms() or len(self._workers) < self._workers_min:
                raise ServiceUnavailableError(self.address, "a worker does not start")
            self._handle_events()
        self._selector.register(self._bound.sock, selectors.EVENT_READ, self._accept)
        self._thread.start()
        _log.info("serving: address=%s workers=%s", self.address, self._workers_max)

    def idle_ms(self) -> int:
        """Return the time since the last connection ended, in ms; 0 while there is one."""
        since_ms = self._idle_since_ms
        return 0 if since_ms is None else self._clock.boottime_ms() - since_ms

    def figures(self) -> dict[str, Any]:
        """Return the sizes of the workers, by the names of the metrics of `theflash serve`."""
        workers = list(self._workers)
        return {
            "connections": self._admission.counts,
            "workers": len(workers),
            "workers_resident_bytes": sum(resident_bytes(w.process.pid) or 0 for w in workers),
            "scans": sum(worker.usage.scans for worker in workers),
            "request_bytes": sum(worker.usage.memory for worker in workers),
        }

    def stop(self, drain_ms: int = DRAIN_MS) -> None:
        """Stop listening, wait up to `drain_ms` for calls in progress, then end all workers."""
        self._drain_ms = drain_ms
        if self._thread.ident is not None:
            self._thread.join()
        self._bound.close()
        self._unanswered.clear()
        for connection in list(self._connections):
            if not any(connection.number in worker.connections for worker in self._workers):
                self._drop(connection)
        for worker in self._workers:
            worker.send(ControlMessage(ControlOp.STOP, drain_ms))
        deadline = Deadline(self._clock, drain_ms + _STOP_MS)
        while self._workers and deadline.left_ms():
            self._handle_events()
        for worker in list(self._workers):
            worker.process.kill()
            self._remove(worker)
        self._selector.close()

    @property
    def answering(self) -> dict[int, int]:
        """The number of connections that each worker serves now, by process id."""
        return {worker.process.pid: len(worker.connections) for worker in list(self._workers)}

    def _run(self) -> None:
        while self._drain_ms is None:
            self._handle_events()
            self._do_upkeep()
        self._selector.unregister(self._bound.sock)

    def _handle_events(self) -> None:
        for key, _ in self._selector.select(_POLL_S):
            key.data()

    def _do_upkeep(self) -> None:
        """Close connections after their deadlines, and replace missing workers."""
        now_ms = self._clock.boottime_ms()
        if now_ms < self._upkeep_at_ms:
            return
        self._upkeep_at_ms = now_ms + _UPKEEP_MS
        active = {n for worker in self._workers for n in worker.connections}
        active.update(connection.number for connection in self._unanswered)
        for connection in list(self._connections):
            is_late = connection.number not in active and connection.deadline_ms <= now_ms
            if not is_late and connection.pending_until_ms <= now_ms:
                is_late = self._admission.is_pending(connection)
            if is_late:
                self._drop(connection)
        if len(self._workers) < self._workers_min:
            self._add_worker()

    def _accept(self) -> None:
        try:
            sock, _ = self._bound.sock.accept()
        except BlockingIOError:
            return  # the caller has closed the connection
        except OSError as error:
            # As when there is no free file descriptor.
            _log.warning("cannot accept: %s", error)
            self._clock.sleep_ms(round(_POLL_S * 1000))
            return
        now_ms, timeouts = self._clock.boottime_ms(), self._settings.timeouts
        deadline_ms, pending_until_ms = now_ms + timeouts.greeting_ms, now_ms + timeouts.pending_ms
        connection = _Connection(next(self._numbers), sock, deadline_ms, pending_until_ms)
        self._idle_since_ms = None
        self._connections.add(connection)
        surplus = self._admission.add(connection, lambda each: each.is_silent)
        if surplus is not None:
            self._drop(surplus)
        self._wait_for(connection)

    def _wait_for(self, connection: _Connection) -> None:
        handle = partial(self._on_input, connection)
        self._selector.register(connection.sock, selectors.EVENT_READ, handle)

    def _on_input(self, connection: _Connection) -> None:
        """Handle the input of a connection, which is a call or the connection's end."""
        try:
            first = connection.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            first = b""
        if first:
            connection.is_silent = False
            self._selector.unregister(connection.sock)
            self._assign(connection)
        else:
            self._drop(connection)

    def _assign(self, connection: _Connection) -> None:
        """Pass a connection to a worker, and start another worker if all are busy."""
        ready = [worker for worker in self._workers if worker.is_ready]
        if not ready:
            self._unanswered.append(connection)
            return
        worker = self._chosen(ready)
        message = ControlMessage(ControlOp.TAKE, connection.number, connection.greeted)
        if not worker.send(message, connection.sock):
            self._on_end(worker)
            self._assign(connection)
            return
        is_busy = bool(worker.connections)
        worker.connections[connection.number] = connection
        if is_busy and len(ready) == len(self._workers):
            self._add_worker()

    def _chosen(self, ready: list[_Worker]) -> _Worker:
        """Choose the worker with the fewest connections.

        If there are several, it is the oldest, which has the fullest caches.
        """
        return min(ready, key=lambda each: len(each.connections))

    def _drop(self, connection: _Connection) -> None:
        """Close a connection, wherever it is served. Closing it twice has no effect."""
        if connection.is_closed:
            return
        with contextlib.suppress(KeyError):
            self._selector.unregister(connection.sock)
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
        connection.sock.close()
        self._connections.discard(connection)
        self._admission.remove(connection)
        if connection in self._unanswered:
            self._unanswered.remove(connection)
        if not self._connections:
            self._idle_since_ms = self._clock.boottime_ms()

    def _add_worker(self) -> None:
        """Start a worker, unless the limit is reached or a delay has not passed."""
        now_ms = self._clock.boottime_ms()
        if len(self._workers) >= self._workers_max or now_ms < self._start_after_ms:
            return
        try:
            worker = _start_worker(self._settings, now_ms)
        except OSError as error:
            # The machine has no resources for it; the other workers continue.
            _log.error("cannot start a worker: %s", error)
            self._back_off(now_ms)
            return
        self._workers.append(worker)
        self._selector.register(
            worker.control, selectors.EVENT_READ, partial(self._on_message, worker)
        )

    def _back_off(self, started_ms: int) -> None:
        """Delay the next start, unless the worker that was started at `started_ms` ran for long."""
        now_ms = self._clock.boottime_ms()
        is_steady = now_ms - started_ms >= _STEADY_MS
        self._failures = 0 if is_steady else min(self._failures + 1, _FAILURES_MAX)
        wait_ms = _BACK_OFF_MS * (2**self._failures - 1)
        self._start_after_ms = now_ms + min(wait_ms, _BACK_OFF_MS_MAX)

    def _on_message(self, worker: _Worker) -> None:
        if worker not in self._workers:
            return  # the worker has ended
        received = receive_control(worker.control)
        if received is None:
            self._on_end(worker)
            return
        message, _ = received
        if message.op is ControlOp.READY:
            worker.is_ready = True
            unanswered, self._unanswered = self._unanswered, []
            for connection in unanswered:
                self._assign(connection)
            return
        if message.op is ControlOp.USAGE:
            worker.usage = UsageReport.from_number(message.number)
            return
        if message.op is ControlOp.ADMIT and message.greeted is not None:
            self._admit(worker, worker.connections[message.number], message.greeted)
            return
        connection = worker.connections.pop(message.number)
        if message.greeted is None or self._drain_ms is not None or connection.is_closed:
            # The worker has closed the connection itself; what it sent last is still delivered.
            self._drop(connection)
            return
        connection.greeted = message.greeted
        timeouts = self._settings.timeouts
        connection.deadline_ms = self._clock.boottime_ms() + timeouts.idle_ms
        self._wait_for(connection)

    def _admit(self, worker: _Worker, connection: _Connection, greeted: Greeted) -> None:
        op = ControlOp.ADMITTED
        try:
            identity, is_admin = greeted.identity, greeted.is_admin
            self._admission.admit(connection, identity, is_admin=is_admin)
        except ServiceUnavailableError as error:
            _log.info("connection rejected: %s", error)
            op = ControlOp.REJECTED
        # The end of a worker is detected by `receive_control`.
        worker.send(ControlMessage(op, connection.number))

    def _on_end(self, worker: _Worker) -> None:
        """Handle the end of a worker."""
        status = self._remove(worker)
        if self._drain_ms is not None:
            return
        self._back_off(worker.started_ms)
        pid, lost = worker.process.pid, len(worker.connections)
        _log.error("a worker ended: pid=%s status=%s connections=%s", pid, status, lost)

    def _remove(self, worker: _Worker) -> int | None:
        self._workers.remove(worker)
        self._selector.unregister(worker.control)
        status = worker.end()
        for connection in worker.connections.values():
            self._drop(connection)
        return status


def _start_worker(settings: WorkerSettings, now_ms: int) -> _Worker:
    own_end, worker_end = socket.socketpair()
    with contextlib.ExitStack() as undo, worker_end:
        undo.enter_context(own_end)
        fd = worker_end.fileno()
        # The store is shown in lists of processes.
        arguments = (str(fd), str(settings.store.absolute()))
        process = start_module(
            _WORKER, *arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[fd]
        )
        undo.pop_all()
    if process.stdin is not None:  # it is a pipe
        # A worker that has ended already is detected through the socket pair.
        with contextlib.suppress(OSError), process.stdin as stdin:
            stdin.write(pickle.dumps(_with_absolute_paths(settings)))
    return _Worker(process, own_end, now_ms)


def _with_absolute_paths(settings: WorkerSettings) -> WorkerSettings:
    """Workers have another working directory."""
    tls, tokens = settings.tls, settings.tokens
    if tls is not None:
        ca = None if tls.ca is None else tls.ca.absolute()
        tls = ServerTls(tls.cert.absolute(), tls.key.absolute(), ca)
    tokens = None if tokens is None else tokens.absolute()
    return replace(settings, store=settings.store.absolute(), tokens=tokens, tls=tls)
