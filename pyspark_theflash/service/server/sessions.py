"""The connections that one process answers, a thread for each."""

import logging
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Any, Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import AuthenticationError
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.service.api.token import Tokens
from pyspark_theflash.service.server.control import Greeted
from pyspark_theflash.service.server.reject import tell_error
from pyspark_theflash.service.server.session import ConnectionSession
from pyspark_theflash.service.server.timeouts import Timeouts
from pyspark_theflash.service.wire.link import Link

_log = logging.getLogger(__name__)

_LOOK_MS: Final = 20
_STOP_MS: Final = 5_000
_CREDENTIALS: Final = struct.Struct("3i")
"""Process, user and group."""


class Sessions:
    """Connections to one service, from when they are taken until they end or wait elsewhere."""

    def __init__(
        self,
        service: Service,
        address: str,
        *,
        clock: Clock,
        tokens: Tokens | None,
        tls: ssl.SSLContext | None,
        allowed_names: tuple[str, ...],
        timeouts: Timeouts,
        linger_ms: int | None = None,
    ) -> None:
        """`linger_ms`: how long one that is alone here waits for its next call; None: they stay.

        Those with TLS stay, since what TLS knows is in here.
        """
        self._service, self._address, self._clock, self._tokens = service, address, clock, tokens
        self._tls = tls
        self._allowed = frozenset(allowed_names)
        self._timeouts = timeouts
        self._stay = linger_ms is None or tls is not None
        self._linger_ms = linger_ms or 0
        self._mutex = threading.Lock()
        self._sessions: dict[Link, ConnectionSession | None] = {}
        self._threads: set[threading.Thread] = set()
        self._idle_since_ms = clock.boottime_ms()

    def __len__(self) -> int:
        with self._mutex:
            return len(self._sessions)

    def idle_ms(self) -> int:
        """For how long there has been no connection; 0 while there is one."""
        with self._mutex:
            if self._sessions:
                return 0
            return self._clock.boottime_ms() - self._idle_since_ms

    def take(
        self,
        sock: socket.socket,
        greeted: Greeted | None = None,
        ended: Callable[[Greeted | None], None] = lambda _: None,
    ) -> None:
        """Answer a connection. Does not wait.

        Args:
            greeted: of a connection that was answered before.
            ended: called when it is answered here no more, with what `ConnectionSession.run`
            returned.
        """
        link = Link(sock, self._clock)
        thread = threading.Thread(target=self._serve, args=(sock, link, greeted, ended))
        thread.daemon = True
        with self._mutex:
            self._sessions[link] = None
            self._threads.add(thread)
        thread.start()

    def stop(self, drain_ms: int) -> None:
        """Let calls that have begun end, then end all."""
        deadline_ms = self._clock.boottime_ms() + drain_ms
        while self._clock.boottime_ms() < deadline_ms and self._busy():
            self._clock.sleep_ms(_LOOK_MS)
        with self._mutex:
            links, threads = list(self._sessions), list(self._threads)
        for link in links:
            link.interrupt()
        # What goes on nevertheless, a compaction say, ends with the process and does no harm.
        deadline_ms = self._clock.boottime_ms() + _STOP_MS
        for thread in threads:
            thread.join(max(deadline_ms - self._clock.boottime_ms(), 0) / 1000)

    def _linger(self) -> int:
        """With others here, its next call may find more room elsewhere."""
        return self._linger_ms if len(self) == 1 else 0

    def _busy(self) -> bool:
        with self._mutex:
            return any(
                session is not None and session.is_busy for session in self._sessions.values()
            )

    def _serve(
        self,
        sock: socket.socket,
        link: Link,
        greeted: Greeted | None,
        ended: Callable[[Greeted | None], None],
    ) -> None:
        own, waits = link, None
        try:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                secured = self._secured(sock, self._tls)
                own = Link(secured, self._clock)
                self._check_name(own, secured)
            session = ConnectionSession(
                own,
                self._service,
                self._tokens,
                clock=self._clock,
                address=self._address,
                timeouts=self._timeouts,
                peer=_peer(sock),
                greeted=greeted,
                linger_ms=None if self._stay else self._linger,
            )
            with self._mutex:
                del self._sessions[link]
                self._sessions[own] = session
                link = own
            waits = session.run()
        except OSError as error:
            _log.info("connection refused: %s", error)
            own.close_gently()
        finally:
            with self._mutex:
                self._sessions.pop(link, None)
                self._threads.discard(threading.current_thread())
                self._idle_since_ms = self._clock.boottime_ms()
            ended(waits)

    def _check_name(self, link: Link, sock: ssl.SSLSocket) -> None:
        """Raise `ConnectionError`, and tell why, unless the caller's certificate is allowed."""
        if self._allowed and self._allowed.isdisjoint(_common_names(sock)):
            error = AuthenticationError(self._address, "this certificate's name may not call")
            tell_error(link, error)
            raise ConnectionAbortedError(str(error))

    def _secured(self, sock: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
        sock.settimeout(self._timeouts.greeting_ms / 1000)
        secured = tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        try:
            secured.do_handshake()
        except BaseException:
            Link(secured, self._clock).close_gently()
            raise
        return secured


def _peer(sock: socket.socket) -> str:
    """Whose process is at the other end of a unix socket, where the system tells."""
    if sock.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return "this machine"
    shown = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(shown)
    return f"user {uid}"


def _common_names(sock: ssl.SSLSocket) -> set[str]:
    shown: Any = sock.getpeercert() or {}
    pairs = [pair for name in shown.get("subject", ()) for pair in name]
    return {value for key, value in pairs if key == "commonName"}
