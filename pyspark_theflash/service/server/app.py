"""A server of the API's own protocol in one process."""

import logging
import threading
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.tls import ServerTls
from pyspark_theflash.net.bind import bind, check_names, check_safe
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.service.api.token import Tokens
from pyspark_theflash.service.server.control import CONNECTIONS_MAX, DRAIN_MS, Timeouts
from pyspark_theflash.service.server.reject import reject
from pyspark_theflash.service.server.sessions import Sessions
from pyspark_theflash.service.wire.link import Link

_log = logging.getLogger(__name__)

_ACCEPT_S: Final = 0.2
_RETRY_MS: Final = 20


class SocketServer(Sessions):
    """A server with one listening socket. `ConnectionRouter` is one with several processes."""

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
        """Listen on `address`; connections are accepted after `start`.

        `connections_max` is the limit of connections. See `Sessions` for the other arguments.

        Raises:
            OptionError: The address cannot be used, or not safely.
        """
        check_safe(address, has_tls=tls is not None, has_tokens=tokens is not None)
        check_names(allowed_names, tls)
        super().__init__(
            service,
            address,
            clock=clock,
            tokens=tokens,
            tls=tls,
            allowed_names=allowed_names,
            timeouts=timeouts,
        )
        self._connections_max = connections_max
        self._stopping = False
        self._bound = bind(address)
        self._bound.sock.settimeout(_ACCEPT_S)
        self.address = self._bound.address
        """The listening address, with the actual port if `address` has port 0."""
        self._acceptor = threading.Thread(target=self._accept, name="accept", daemon=True)

    def start(self) -> None:
        """Accept connections."""
        self._acceptor.start()
        _log.info("serving: address=%s", self.address)

    def stop(self, drain_ms: int = DRAIN_MS) -> None:
        """Stop listening, wait up to `drain_ms` for calls in progress, then end all connections."""
        self._stopping = True
        if self._acceptor.ident is not None:
            self._acceptor.join()
        self._bound.close()
        super().stop(drain_ms)

    def _accept(self) -> None:
        while not self._stopping:
            try:
                sock, _ = self._bound.sock.accept()
            except TimeoutError:
                continue
            except OSError as error:
                # As when there is no free file descriptor.
                _log.warning("cannot accept: %s", error)
                self._clock.sleep_ms(_RETRY_MS)
                continue
            if len(self) < self._connections_max:
                self.take(sock)
            else:
                link, has_tls = Link(sock, self._clock), self._tls is not None
                reject(link, self.address, self._connections_max, has_tls=has_tls)
