"""A server of the API's own protocol in one process."""

import itertools
import logging
import socket
import threading
from typing import Any, Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.tls import ServerTls
from pyspark_theflash.net.bind import bind, check_names, check_safe
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.service.api.token import Tokens
from pyspark_theflash.service.server.admission import Admission
from pyspark_theflash.service.server.control import DRAIN_MS, Greeted, Timeouts
from pyspark_theflash.service.server.sessions import Sessions

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
        timeouts: Timeouts | None = None,
    ) -> None:
        """Listen on `address`; connections are accepted after `start`.

        See `Sessions` for the arguments.

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
        self._numbers = itertools.count(1)
        self._stopping = False
        self._bound = bind(address)
        self._bound.sock.settimeout(_ACCEPT_S)
        self.address = self._bound.address
        """The listening address, with the actual port if `address` has port 0."""
        self._admission: Admission[int] = Admission(service.usage.limits, self.address, clock)
        self._acceptor = threading.Thread(target=self._accept, name="accept", daemon=True)

    def start(self) -> None:
        """Accept connections."""
        self._acceptor.start()
        _log.info("serving: address=%s", self.address)

    def figures(self) -> dict[str, Any]:
        """Return the numbers of connections, by the names of the metrics of `theflash serve`."""
        return {"connections": self._admission.counts}

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
            self._add(sock)

    def _add(self, sock: socket.socket) -> None:
        number = next(self._numbers)

        def admit(greeted: Greeted) -> None:
            self._admission.admit(number, greeted.identity, is_admin=greeted.is_admin)

        surplus = self._admission.add(number)
        if surplus is not None:
            self.interrupt(surplus)
        self.take(number, sock, admit=admit, ended=lambda _: self._admission.remove(number))
