"""The connections that one process serves, with a thread for each."""

import logging
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import AuthenticationError
from pyspark_theflash.base.tls import Certificates, ServerTls
from pyspark_theflash.service.api.call import local_identity
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.service.api.token import Tokens
from pyspark_theflash.service.server.control import DRAIN_MS, Greeted, Timeouts
from pyspark_theflash.service.server.failures import Failures
from pyspark_theflash.service.server.reject import send_error
from pyspark_theflash.service.server.session import ConnectionSession
from pyspark_theflash.service.wire.link import Link

_log = logging.getLogger(__name__)

_POLL_MS: Final = 20
_STOP_MS: Final = 5_000
_CREDENTIALS: Final = struct.Struct("3i")
"""Process, user and group of SO_PEERCRED."""


@dataclass(slots=True)
class _Served:
    """A connection, and its session once there is one."""

    thread: threading.Thread
    link: Link
    session: ConnectionSession | None = None


class Sessions:
    """The connections to a service in one process."""

    def __init__(
        self,
        service: Service,
        address: str,
        *,
        clock: Clock,
        tokens: Tokens | None = None,
        tls: ServerTls | None = None,
        allowed_names: tuple[str, ...] = (),
        timeouts: Timeouts | None = None,
        linger_ms: int | None = None,
    ) -> None:
        """Accept connections through `take`.

        Args:
            service: Answers the calls.
            address: The server's address, for error messages.
            clock: The clock of timeouts.
            tokens: Callers' tokens; None: every caller is an admin.
            tls: The server's certificate; None: no TLS.
            allowed_names: Common names that callers' certificates may have; empty: any.
            timeouts: Time limits for callers; None: the defaults.
            linger_ms: How long the only connection waits here for its next call, before it is
                returned to the router; None: connections stay until they end. Connections with TLS
                always stay, because the state of TLS is in this process.
        """
        self._service, self.address, self._clock, self._tokens = service, address, clock, tokens
        self._certificates = None if tls is None else Certificates(tls)
        self._failures = Failures(clock)
        self._allowed = frozenset(allowed_names)
        self._timeouts = timeouts or Timeouts()
        self._stay = linger_ms is None or tls is not None
        self._linger_ms = linger_ms or 0
        self._mutex = threading.Lock()
        self._sessions: dict[int, _Served] = {}
        self._idle_since_ms = clock.boottime_ms()

    def __len__(self) -> int:
        with self._mutex:
            return len(self._sessions)

    def idle_ms(self) -> int:
        """Return the time since the last connection ended, in ms; 0 while there is one."""
        with self._mutex:
            return 0 if self._sessions else self._clock.boottime_ms() - self._idle_since_ms

    def take(
        self,
        number: int,
        sock: socket.socket,
        greeted: Greeted | None = None,
        *,
        admit: Callable[[Greeted], None] = lambda _: None,
        ended: Callable[[Greeted | None], None] = lambda _: None,
    ) -> None:
        """Serve a connection in a new thread.

        Args:
            number: A number that no other connection here has.
            sock: The connection.
            greeted: Its state, if it was served before.
            admit: Called when the caller is authenticated; raises if there are too many.
            ended: Called at the end with the result of `ConnectionSession.run`.
        """
        link = Link(sock, self._clock)
        thread = threading.Thread(target=self._serve, args=(number, sock, greeted, admit, ended))
        thread.daemon = True
        with self._mutex:
            self._sessions[number] = _Served(thread, link)
        thread.start()

    def interrupt(self, number: int) -> None:
        """End a connection."""
        with self._mutex:
            served = self._sessions.get(number)
            if served is not None:
                served.link.interrupt()

    def stop(self, drain_ms: int = DRAIN_MS) -> None:
        """Wait up to `drain_ms` for calls in progress, then end all connections."""
        drain = Deadline(self._clock, drain_ms)
        while drain.left_ms() and self._is_busy():
            self._clock.sleep_ms(_POLL_MS)
        with self._mutex:
            sessions = list(self._sessions.values())
            for served in sessions:
                served.link.interrupt()
        # Threads that are still at work, as in a compaction, end with the process, which is safe.
        stop = Deadline(self._clock, _STOP_MS)
        for served in sessions:
            served.thread.join(stop.left_ms() / 1000)

    def _linger(self) -> int:
        """With other connections here, another worker may answer the next call sooner."""
        return self._linger_ms if len(self) == 1 else 0

    def _is_busy(self) -> bool:
        with self._mutex:
            sessions = [served.session for served in self._sessions.values()]
        return any(session is not None and session.is_busy for session in sessions)

    def _serve(
        self,
        number: int,
        sock: socket.socket,
        greeted: Greeted | None,
        admit: Callable[[Greeted], None],
        ended: Callable[[Greeted | None], None],
    ) -> None:
        served, state = self._sessions[number], None
        try:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer = _peer(sock)
            origin = str(sock.getpeername() or peer)
            if self._certificates is not None:
                self._secure(served, sock, origin, self._certificates.context())
            served.session = ConnectionSession(
                served.link,
                self._service,
                self._tokens,
                clock=self._clock,
                address=self.address,
                timeouts=self._timeouts,
                peer=peer,
                greeted=greeted,
                admit=admit,
                failures=self._failures,
                origin=origin,
                linger_ms=None if self._stay else self._linger,
            )
            state = served.session.run()
        except OSError as error:
            _log.info("connection rejected: %s", error)
            served.link.close_gently()
        finally:
            with self._mutex:
                del self._sessions[number]
                self._idle_since_ms = self._clock.boottime_ms()
            ended(state)

    def _check_name(self, link: Link, sock: ssl.SSLSocket, origin: str) -> None:
        """Send an error and raise `ConnectionError` unless the caller's certificate is allowed."""
        if self._allowed and self._allowed.isdisjoint(_common_names(sock)):
            error = AuthenticationError(self.address, "this certificate's name is not allowed")
            self._failures.note(origin, error)
            send_error(link, error)
            raise ConnectionAbortedError(str(error))

    def _secure(
        self, served: _Served, sock: socket.socket, origin: str, tls: ssl.SSLContext
    ) -> None:
        """Make the TLS handshake. Raises `OSError` if it fails or the name is not allowed."""
        sock.settimeout(self._timeouts.greeting_ms / 1000)
        secured = tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        with self._mutex:
            # The socket that `interrupt` ends from now on.
            served.link = Link(secured, self._clock)
        try:
            secured.do_handshake()
        except ssl.SSLError as error:
            self._failures.note(origin, error)
            raise
        self._check_name(served.link, secured, origin)


def _peer(sock: socket.socket) -> str:
    """Return the user of the process at the other end of a unix socket, where that is available."""
    if sock.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return local_identity()
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    return f"user {uid}"


def _common_names(sock: ssl.SSLSocket) -> set[str]:
    certificate: Any = sock.getpeercert() or {}
    pairs = [pair for name in certificate.get("subject", ()) for pair in name]
    return {value for key, value in pairs if key == "commonName"}
