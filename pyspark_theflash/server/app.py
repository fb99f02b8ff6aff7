"""`theflash serve`: a store behind a socket, a thread for each connection."""

import contextlib
import logging
import socket
import ssl
import struct
import threading
from typing import Any, Final

from pyspark_theflash.api.error import told_error
from pyspark_theflash.api.frame import FrameType, Header
from pyspark_theflash.api.service import Service
from pyspark_theflash.api.token import Tokens
from pyspark_theflash.api.wire import encode
from pyspark_theflash.client.link import Link
from pyspark_theflash.clock import Clock
from pyspark_theflash.errors import AuthenticationError, OptionError, ServiceUnavailableError
from pyspark_theflash.server.bind import bind, check_safe
from pyspark_theflash.server.session import Patience, Session
from pyspark_theflash.tls import ServerTls

_log = logging.getLogger(__name__)

CONNECTIONS_MAX: Final = 64
DRAIN_MS: Final = 5_000
_ACCEPT_S: Final = 0.2
_LOOK_MS: Final = 20
_STOP_MS: Final = 5_000
_CREDENTIALS: Final = struct.Struct("3i")
"""Process, user and group."""


class SocketServer:
    """The API's own protocol over one listening socket."""

    def __init__(
        self,
        service: Service,
        address: str,
        *,
        clock: Clock,
        tokens: Tokens | None = None,
        tls: ServerTls | None = None,
        allowed_names: tuple[str, ...] = (),
        connections_max: int = CONNECTIONS_MAX,
        patience: Patience | None = None,
    ) -> None:
        """Listen on `address`, and answer from `start` on.

        `allowed_names`: common names of callers' certificates, if not every one will do.

        Raises:
            OptionError: the address cannot be used, or not safely.
        """
        check_safe(address, has_tls=tls is not None, has_tokens=tokens is not None)
        if allowed_names and (tls is None or tls.ca is None):
            raise OptionError("allow", "names are in callers' certificates: give --ca")
        self._service, self._clock, self._tokens = service, clock, tokens
        self._tls = None if tls is None else tls.context()
        self._allowed = frozenset(allowed_names)
        self._patience = patience or Patience()
        self._connections_max = connections_max
        self._mutex = threading.Lock()
        self._sessions: dict[Link, Session | None] = {}
        self._threads: set[threading.Thread] = set()
        self._stopping = False
        self._idle_since_ms = clock.boottime_ms()
        self._bound = bind(address)
        self._bound.sock.settimeout(_ACCEPT_S)
        self.address = self._bound.address
        """Where it listens, with the port that port 0 became."""
        self._acceptor = threading.Thread(target=self._accept, name="accept", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._acceptor.start()
        _log.info("serving: address=%s", self.address)

    def idle_ms(self) -> int:
        """For how long there has been no connection; 0 while there is one."""
        with self._mutex:
            if self._sessions:
                return 0
            return self._clock.boottime_ms() - self._idle_since_ms

    def stop(self, drain_ms: int = DRAIN_MS) -> None:
        """Take no more connections, let calls that have begun end, then end all."""
        self._stopping = True
        if self._acceptor.ident is not None:
            self._acceptor.join()
        self._bound.close()
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

    def _busy(self) -> bool:
        with self._mutex:
            return any(
                session is not None and session.is_busy for session in self._sessions.values()
            )

    def _accept(self) -> None:
        while not self._stopping:
            try:
                sock, _ = self._bound.sock.accept()
            except TimeoutError:
                continue
            except OSError as error:
                # Out of file descriptors, say: others will be given back.
                _log.warning("cannot accept: %s", error)
                self._clock.sleep_ms(_LOOK_MS)
                continue
            self._take(sock)

    def _take(self, sock: socket.socket) -> None:
        link = Link(sock, self._clock)
        with self._mutex:
            is_full = len(self._sessions) >= self._connections_max
            if not is_full:
                self._sessions[link] = None
        if is_full:
            reason = f"it has {self._connections_max} connections already"
            # Of a TLS connection only the end is seen: a handshake is too much for who is full.
            if self._tls is None:
                self._tell(link, ServiceUnavailableError(self.address, reason))
            link.interrupt()
            link.close()
            return
        thread = threading.Thread(target=self._serve, args=(sock, link), daemon=True)
        with self._mutex:
            self._threads.add(thread)
        thread.start()

    def _tell(self, link: Link, error: Exception) -> None:
        body = encode(told_error(error))
        with contextlib.suppress(OSError):
            link.send(Header(FrameType.ERROR, 0, len(body)), body, _LOOK_MS)

    def _check_name(self, link: Link, sock: ssl.SSLSocket) -> None:
        """Raise `ConnectionError`, and tell why, unless the caller's certificate is allowed."""
        if self._allowed and self._allowed.isdisjoint(_common_names(sock)):
            error = AuthenticationError(self.address, "this certificate's name may not call")
            self._tell(link, error)
            raise ConnectionAbortedError(str(error))

    def _serve(self, sock: socket.socket, link: Link) -> None:
        own = link
        try:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                secured = self._secured(sock, self._tls)
                own = Link(secured, self._clock)
                self._check_name(own, secured)
            session = Session(
                own,
                self._service,
                self._tokens,
                clock=self._clock,
                address=self.address,
                patience=self._patience,
                peer=_peer(sock),
            )
            with self._mutex:
                del self._sessions[link]
                self._sessions[own] = session
                link = own
            session.run()
        except OSError as error:
            _log.info("connection refused: %s", error)
            own.close_gently()
        finally:
            with self._mutex:
                self._sessions.pop(link, None)
                self._threads.discard(threading.current_thread())
                self._idle_since_ms = self._clock.boottime_ms()

    def _secured(self, sock: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
        sock.settimeout(self._patience.greeting_ms / 1000)
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
