"""A proxy that loses answers of a server."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

_PUBLISH = b"\x07Publish"


class CuttingProxy:
    """Forwards messages, but cuts the connection instead of every `nth` answer to a Publish.

    The call itself has succeeded, because its answer was received.
    """

    def __init__(self, server: str, nth: int) -> None:
        host, _, port = server.rpartition(":")
        self._server, self._nth = (host, int(port)), nth
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.answers = self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                _Pair(self, caller, socket.create_connection(self._server))

    def loses_answer(self) -> bool:
        """Return whether to lose this answer to a Publish."""
        self.answers += 1
        is_lost = self.answers % self._nth == 0
        self.cuts += is_lost
        return is_lost


class _Pair:
    """A connection to a client and the one to the server."""

    def __init__(self, proxy: CuttingProxy, caller: socket.socket, server: socket.socket) -> None:
        self._proxy, self._caller, self._server = proxy, caller, server
        self._is_publishing, self._tail = False, b""
        for way in (self._ask, self._answer):
            threading.Thread(target=self._guarded, args=(way,), daemon=True).start()

    def _guarded(self, way: Callable[[], None]) -> None:
        with suppress(OSError):
            way()
        for end in (self._caller, self._server):
            # Closing alone would not end the other thread's call.
            with suppress(OSError), closing(end):
                end.shutdown(socket.SHUT_RDWR)

    def _ask(self) -> None:
        while data := self._caller.recv(1 << 16):
            if _PUBLISH in self._tail + data:
                self._is_publishing, self._tail = True, b""
            else:
                self._tail = data[-len(_PUBLISH) :]
            self._server.sendall(data)

    def _answer(self) -> None:
        while data := self._server.recv(1 << 16):
            if self._is_publishing:
                self._is_publishing = False
                if self._proxy.loses_answer():
                    return
            self._caller.sendall(data)


@contextmanager
def cutting(server: str, nth: int) -> Iterator[CuttingProxy]:
    """A proxy before the server at an address."""
    with closing(CuttingProxy(server, nth)) as proxy:
        yield proxy
