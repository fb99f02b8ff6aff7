"""`theflash serve` with several processes: one takes connections, workers answer them.

    callers ──► front ── a connection whose call has come ──► the worker with the fewest of them
                  ▲                                              │
                  └── it waits for its next call; or it is over ─┘

Python runs one thread of a process at a time, so calls at the same time need processes of their
own. What decides is the call, not the connection: callers keep connections and use now this one,
now that one. So a connection that has no call waits here, and each call goes where the fewest are
answered. A worker more is started when a call comes while all are at work, so a single caller has a
single worker. A connection with TLS stays where it was greeted, since what TLS knows cannot be
given away; so with TLS all workers are there from the beginning.

The front keeps a descriptor of each connection. A worker that dies takes with it the calls that it
was answering, whose callers see their connection end; the others do not notice. It is replaced when
another is needed, after a while that grows if they keep dying.

Nothing but connections passes through here: tickets, latches and commands are in the store, and
who writes is decided by its lock, among workers as among any processes.
"""

import contextlib
import itertools
import logging
import selectors
import socket
import subprocess
import threading
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import ServiceUnavailableError
from pyspark_theflash.net.bind import bind, check_names, check_safe
from pyspark_theflash.service.client.process import python_environment, python_module
from pyspark_theflash.service.server.control import (
    ControlMessage,
    ControlOp,
    Greeted,
    WorkerSettings,
    receive_control,
    send_control,
)
from pyspark_theflash.service.server.timeouts import CONNECTIONS_MAX, DRAIN_MS

_log = logging.getLogger(__name__)

_WORKER: Final = "pyspark_theflash.service.server.worker"
_LOOK_S: Final = 0.2
_TEND_MS: Final = 200
_STARTED_MS: Final = 60_000
_STEADY_MS: Final = 10_000
"""A worker that lived so long did not die of how it began."""
_BACK_OFF_MS: Final = 100
_BACK_OFF_MS_MAX: Final = 5_000
_FAILURES_MAX: Final = 10
_STOP_MS: Final = 6_000
"""What workers need to end after their calls have, and a second."""
_REAP_S: Final = 1.0


@dataclass(slots=True, eq=False)
class _Connection:
    """Of a caller. It ends at `deadline_ms` if it still waits here then."""

    number: int
    sock: socket.socket
    deadline_ms: int
    greeted: Greeted | None = None


@dataclass(slots=True, eq=False)
class _Worker:
    """A process, and the connections that it answers, by number."""

    process: "subprocess.Popen[bytes]"
    control: socket.socket
    started_ms: int
    is_ready: bool = False
    connections: dict[int, _Connection] = field(default_factory=dict)

    def tell(self, message: ControlMessage, connection: socket.socket | None = None) -> bool:
        """Whether it is still there to be told."""
        try:
            send_control(self.control, message, connection)
        except OSError:
            return False
        return True

    def end(self) -> int | None:
        """See that it is gone; its exit status."""
        self.control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(_REAP_S)
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(_REAP_S)
        return None


class ConnectionRouter:
    """The API's own protocol over one listening socket; see `SocketServer`."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        workers: int,
        clock: Clock,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        """Listen on the settings' address, and answer from `start` on, with so many workers.

        Raises:
            OptionError: the address cannot be used, or not safely.
        """
        tls = settings.tls
        has_tokens = settings.tokens is not None
        check_safe(settings.address, has_tls=tls is not None, has_tokens=has_tokens)
        check_names(settings.allowed_names, tls)
        if tls is not None:
            tls.context()  # which says what is wrong with it
        self._clock, self._workers_max = clock, workers
        # Where connections stay where they are put, all must be there before the first one.
        self._workers_min = 1 if tls is None else workers
        self._connections_max = connections_max
        self._bound = bind(settings.address)
        self._bound.sock.setblocking(False)
        self.address = self._bound.address
        """Where it listens, with the port that port 0 became."""
        self._settings = replace(settings, address=self.address)
        self._selector = selectors.DefaultSelector()
        self._numbers = itertools.count(1)
        self._workers: list[_Worker] = []
        self._connections: set[_Connection] = set()
        self._unanswered: list[_Connection] = []
        """Those with a call, while no worker is ready."""
        self._failures, self._start_after_ms, self._tend_at_ms = 0, 0, 0
        self._idle_since_ms: int | None = clock.boottime_ms()
        self._drain_ms: int | None = None
        self._thread = threading.Thread(target=self._run, name="front", daemon=True)

    def start(self) -> None:
        """Wait for the first worker (all of them with TLS), and begin to answer.

        Raises:
            ServiceUnavailableError: it does not start; it has said why.
        """
        deadline_ms = self._clock.boottime_ms() + _STARTED_MS
        for _ in range(self._workers_min):
            self._add_worker()
        while sum(worker.is_ready for worker in self._workers) < self._workers_min:
            is_late = self._clock.boottime_ms() >= deadline_ms
            if is_late or len(self._workers) < self._workers_min:
                raise ServiceUnavailableError(self.address, "a worker does not start")
            self._handle_events()
        self._selector.register(self._bound.sock, selectors.EVENT_READ, self._accept)
        self._thread.start()
        _log.info("serving: address=%s workers=%s", self.address, self._workers_max)

    def idle_ms(self) -> int:
        """For how long there has been no connection; 0 while there is one."""
        since_ms = self._idle_since_ms
        return 0 if since_ms is None else self._clock.boottime_ms() - since_ms

    def stop(self, drain_ms: int = DRAIN_MS) -> None:
        """Take no more connections, let calls that have begun end, then end all."""
        self._drain_ms = drain_ms
        if self._thread.ident is not None:
            self._thread.join()
        self._bound.close()
        self._unanswered.clear()
        for connection in list(self._connections):
            if not any(connection.number in worker.connections for worker in self._workers):
                self._drop(connection)
        for worker in self._workers:
            worker.tell(ControlMessage(ControlOp.STOP, drain_ms))
        deadline_ms = self._clock.boottime_ms() + drain_ms + _STOP_MS
        while self._workers and self._clock.boottime_ms() < deadline_ms:
            self._handle_events()
        for worker in list(self._workers):
            worker.process.kill()
            self._remove(worker)
        self._selector.close()

    @property
    def answering(self) -> dict[int, int]:
        """How many connections each worker answers now, by its process's id."""
        return {worker.process.pid: len(worker.connections) for worker in list(self._workers)}

    # -- the loop, which is one thread's

    def _run(self) -> None:
        while self._drain_ms is None:
            self._handle_events()
            self._tend()
        self._selector.unregister(self._bound.sock)

    def _handle_events(self) -> None:
        for key, _ in self._selector.select(_LOOK_S):
            key.data()

    def _tend(self) -> None:
        """What time brings."""
        now_ms = self._clock.boottime_ms()
        if now_ms < self._tend_at_ms:
            return
        self._tend_at_ms = now_ms + _TEND_MS
        answered = {n for worker in self._workers for n in worker.connections}
        answered.update(connection.number for connection in self._unanswered)
        for connection in list(self._connections):
            if connection.number not in answered and connection.deadline_ms <= now_ms:
                self._drop(connection)
        if len(self._workers) < self._workers_min:
            self._add_worker()

    # -- connections

    def _accept(self) -> None:
        try:
            sock, _ = self._bound.sock.accept()
        except BlockingIOError:
            return  # whoever it was has gone
        except OSError as error:
            # Out of file descriptors, say: others will be given back.
            _log.warning("cannot accept: %s", error)
            self._clock.sleep_ms(round(_LOOK_S * 1000))
            return
        if len(self._connections) >= self._connections_max:
            self._turn_away(sock)
            return
        deadline_ms = self._clock.boottime_ms() + self._settings.timeouts.greeting_ms
        connection = _Connection(next(self._numbers), sock, deadline_ms)
        self._idle_since_ms = None
        self._connections.add(connection)
        self._wait_for(connection)

    def _turn_away(self, sock: socket.socket) -> None:
        # Who never does this need not have what it takes.
        from pyspark_theflash.service.server.reject import reject
        from pyspark_theflash.service.wire.link import Link

        has_tls = self._settings.tls is not None
        reject(Link(sock, self._clock), self.address, self._connections_max, has_tls=has_tls)

    def _wait_for(self, connection: _Connection) -> None:
        handle = partial(self._called, connection)
        self._selector.register(connection.sock, selectors.EVENT_READ, handle)

    def _called(self, connection: _Connection) -> None:
        """A connection has something to say, if only that it ends."""
        try:
            seen = connection.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            seen = b""
        if seen:
            self._selector.unregister(connection.sock)
            self._have_answered(connection)
        else:
            self._drop(connection)

    def _have_answered(self, connection: _Connection) -> None:
        ready = [worker for worker in self._workers if worker.is_ready]
        if not ready:
            self._unanswered.append(connection)
            return
        worker = self._chosen(ready)
        message = ControlMessage(ControlOp.TAKE, connection.number, connection.greeted)
        if not worker.tell(message, connection.sock):
            self._buried(worker)
            self._have_answered(connection)
            return
        is_at_work = bool(worker.connections)
        worker.connections[connection.number] = connection
        if is_at_work and len(ready) == len(self._workers):
            self._add_worker()

    def _chosen(self, ready: list[_Worker]) -> _Worker:
        """The one that answers fewest; of several the first, which knows most already."""
        return min(ready, key=lambda each: len(each.connections))

    def _drop(self, connection: _Connection) -> None:
        """End a connection, wherever it is answered."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(connection.sock)
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
        connection.sock.close()
        self._connections.discard(connection)
        if not self._connections:
            self._idle_since_ms = self._clock.boottime_ms()

    # -- workers

    def _add_worker(self) -> None:
        """Start another one, if there may be one now."""
        now_ms = self._clock.boottime_ms()
        if len(self._workers) >= self._workers_max or now_ms < self._start_after_ms:
            return
        try:
            worker = _started(self._settings, now_ms)
        except OSError as error:
            # No room for it in the machine; those that are there go on.
            _log.error("cannot start a worker: %s", error)
            self._back_off(now_ms)
            return
        self._workers.append(worker)
        self._selector.register(worker.control, selectors.EVENT_READ, partial(self._heard, worker))

    def _back_off(self, started_ms: int) -> None:
        """Wait before the next one is started if this one, from `started_ms`, was of no use."""
        now_ms = self._clock.boottime_ms()
        is_steady = now_ms - started_ms >= _STEADY_MS
        self._failures = 0 if is_steady else min(self._failures + 1, _FAILURES_MAX)
        wait_ms = _BACK_OFF_MS * (2**self._failures - 1)
        self._start_after_ms = now_ms + min(wait_ms, _BACK_OFF_MS_MAX)

    def _heard(self, worker: _Worker) -> None:
        if worker not in self._workers:
            return  # what it said before it ended is of no use
        received = receive_control(worker.control)
        if received is None:
            self._buried(worker)
            return
        message, _ = received
        if message.op is ControlOp.READY:
            worker.is_ready = True
            unanswered, self._unanswered = self._unanswered, []
            for connection in unanswered:
                self._have_answered(connection)
            return
        connection = worker.connections.pop(message.number)
        if message.greeted is None or self._drain_ms is not None:
            # What the worker has sent last is on its way: it has ended the connection itself.
            self._drop(connection)
            return
        connection.greeted = message.greeted
        timeouts = self._settings.timeouts
        connection.deadline_ms = self._clock.boottime_ms() + timeouts.idle_ms
        self._wait_for(connection)

    def _buried(self, worker: _Worker) -> None:
        """A worker has ended."""
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


def _started(settings: WorkerSettings, now_ms: int) -> _Worker:
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as undo, theirs:
        undo.enter_context(ours)
        fd = theirs.fileno()
        process = subprocess.Popen(  # noqa: S603 (our own program, and no shell)
            # The store is for people who look at lists of processes.
            [*python_module(_WORKER), str(fd), str(settings.store.absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            # Python would look for modules in ours.
            cwd="/",
            env=python_environment(),
            pass_fds=[fd],
        )
        undo.pop_all()
    if process.stdin is not None:  # as it was asked for
        # One that has ended already is noticed by its end of the pair.
        with contextlib.suppress(OSError), process.stdin as told:
            told.write(settings.to_json())
    return _Worker(process, ours, now_ms)
