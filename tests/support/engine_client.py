"""A client of a learner's engine service, as TiKV is: streams of batches and snapshots."""

from collections.abc import Iterable, Iterator
from queue import Queue

import grpc

from pyspark_theflash.base.types import RegionID
from pyspark_theflash.tidb.protocol._generated.kvproto import enginepb_pb2
from pyspark_theflash.tikv.command import Applied
from pyspark_theflash.tikv.region import ApplyState
from pyspark_theflash.tikv.wire import SERVICE

APPLY_COMMAND_BATCH = f"/{SERVICE}/ApplyCommandBatch"
APPLY_SNAPSHOT = f"/{SERVICE}/ApplySnapshot"


class EngineClient:
    """A connection to an engine."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)

    def __enter__(self) -> "EngineClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def install(self, chunks: Iterable[bytes], timeout_s: float = 30) -> bytes:
        """Send a snapshot; return the response."""
        call = self._channel.stream_unary(APPLY_SNAPSHOT)
        answer: bytes = call(iter(chunks), timeout=timeout_s)
        return answer

    def commands(self, timeout_s: float = 30) -> "CommandStream":
        """Open a stream of commands."""
        return CommandStream(self._channel.stream_stream(APPLY_COMMAND_BATCH), timeout_s)


class CommandStream:
    """A stream of batches to the engine and of its responses."""

    def __init__(self, call: grpc.StreamStreamMultiCallable, timeout_s: float) -> None:
        self._batches: Queue[bytes | None] = Queue()
        self._answers = call(iter(self._batches.get, None), timeout=timeout_s)

    def send(self, batch: bytes) -> list[Applied]:
        """Send a batch; return the next response."""
        self.put(batch)
        return self.next()

    def put(self, batch: bytes) -> None:
        """Send a batch; its response is read elsewhere."""
        self._batches.put(batch)

    def next(self) -> list[Applied]:
        """Return the next response."""
        return decode_responses(next(self._answers))

    def end(self) -> Iterator[list[Applied]]:
        """End the stream of batches; return the remaining responses."""
        self.close()
        return self.answers()

    def close(self) -> None:
        """End the stream of batches."""
        self._batches.put(None)

    def answers(self) -> Iterator[list[Applied]]:
        """Yield the responses until the end."""
        return map(decode_responses, self._answers)


def decode_responses(data: bytes) -> list[Applied]:
    """Decode a CommandResponseBatch."""
    responses = enginepb_pb2.CommandResponseBatch.FromString(data).responses
    return [
        Applied(RegionID(each.header.region_id), None if each.header.destroyed else _state(each))
        for each in responses
    ]


def _state(response: enginepb_pb2.CommandResponse) -> ApplyState:
    applied, cut = response.apply_state, response.apply_state.truncated_state
    return ApplyState(applied.applied_index, response.applied_term, cut.index, cut.term)
