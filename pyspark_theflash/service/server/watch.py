"""Time limits of gRPC calls, whose threads otherwise wait for their callers without a limit."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.net.channel import grpc

_LOOK_S: Final = 0.1


class Watch:
    """Cancels calls whose callers do not send or receive in time. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._mutex = clock, threading.Lock()
        self._deadlines_ms: dict[grpc.ServicerContext, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to cancel calls."""
        self._thread.start()

    def stop(self) -> None:
        """Cancel no more calls."""
        self._ended.set()

    @contextmanager
    def within(self, context: grpc.ServicerContext, timeout_ms: int) -> Iterator[None]:
        """Cancel a call if the block takes longer than `timeout_ms`."""
        with self._mutex:
            self._deadlines_ms[context] = self._clock.boottime_ms() + timeout_ms
        try:
            yield
        finally:
            with self._mutex:
                del self._deadlines_ms[context]

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_S):
            now_ms = self._clock.boottime_ms()
            with self._mutex:
                late = [each for each, end_ms in self._deadlines_ms.items() if end_ms <= now_ms]
            for context in late:
                context.cancel()
