"""`theflash serve`: a store behind a socket, answered by one process."""

import logging
import socket
import threading
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.tls import ServerTls
from pyspark_theflash.net.bind import bind, check_names, check_safe
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.service.api.token import Tokens
from pyspark_theflash.service.server.reject import reject
from pyspark_theflash.service.server.sessions import Sessions
from pyspark_theflash.service.server.timeouts import CONNECTIONS_MAX, DRAIN_MS, Timeouts
from pyspark_theflash.service.wire.link import Link

_log = logging.getLogger(__name__)

_ACCEPT_S: Final = 0.2
_LOOK_MS: Final = 20


class SocketServer:
    """The API's own protocol over one listening socket. `Front` is the same with more processes."""

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
        timeouts: Timeouts | None = None,
    ) -> None:
        """Listen on `address`, and answer from `start` on.

        `allowed_names`: common names of callers' certificates, if not every one will do.

        Raises:
            OptionError: the address cannot be used, or not safely.
        """
        check_safe(address, has_tls=tls is not None, has_tokens=tokens is not None)
        check_names(allowed_names, tls)
        self._clock, self._connections_max, self._has_tls = clock, connections_max, tls is not None
        self._stopping = False
        context = None if tls is None else tls.context()
        self._bound = bind(address)
        self._bound.sock.settimeout(_ACCEPT_S)
        self.address = self._bound.address
        """Where it listens, with the port that port 0 became."""
        self._sessions = Sessions(
            service,
            self.address,
            clock=clock,
            tokens=tokens,
            tls=context,
            allowed_names=allowed_names,
            timeouts=timeouts or Timeouts(),
        )
        self._acceptor = threading.Thread(target=self._accept, name="accept", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._acceptor.start()
        _log.info("serving: address=%s", self.address)

    def idle_ms(self) -> int:
        """For how long there has been no connection; 0 while there is one."""
        return self._sessions.idle_ms()

    def stop(self, drain_ms: int = DRAIN_MS) -> None:
        """Take no more connections, let calls that have begun end, then end all."""
        self._stopping = True
        if self._acceptor.ident is not None:
            self._acceptor.join()
        self._bound.close()
        self._sessions.stop(drain_ms)

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
        if len(self._sessions) < self._connections_max:
            self._sessions.take(sock)
        else:
            link = Link(sock, self._clock)
            reject(link, self.address, self._connections_max, has_tls=self._has_tls)
