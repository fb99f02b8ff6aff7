"""Messages that are parsed together have the contents of each of them, by request."""

from collections import defaultdict
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from pyspark_theflash.replication.cdc.wire import (
    FeedError,
    FeedFault,
    RegionsProgress,
    decode_changes,
    decode_frames,
)
from pyspark_theflash.tidb.protocol._generated.kvproto.cdcpb_pb2 import (
    ChangeDataEvent,
    Error,
    Event,
    ResolvedTs,
)

_Contents = dict[tuple[int, int], list[Any]]


def _message(rng: Random, request_ids: Sequence[int], *, changes_only: bool) -> ChangeDataEvent:
    """Make a message with events of a few regions, and sometimes with progress."""
    message = ChangeDataEvent()
    request_id = rng.choice(request_ids)
    for _ in range(rng.randrange(4)):
        event = message.events.add(region_id=rng.randrange(1, 4), request_id=request_id)
        kind = 0 if changes_only else rng.randrange(12)
        if kind == 1:
            event.error.CopyFrom(Error(congested={"region_id": 1}))
        elif kind == 2:
            event.resolved_ts = rng.randrange(1, 99)
        elif kind != 3:
            kinds = Event.LogType.PREWRITE, Event.LogType.COMMIT
            rows = [
                Event.Row(type=rng.choice(kinds), start_ts=rng.randrange(99), key=rng.randbytes(3))
                for _ in range(rng.randrange(3))
            ]
            event.entries.CopyFrom(Event.Entries(entries=rows))
    if not changes_only and rng.random() < 0.2:
        progress = ResolvedTs(regions=[1, 3], ts=rng.randrange(1, 99), request_id=request_id)
        message.resolved_ts.CopyFrom(progress)
    return message


def _expected(messages: Sequence[ChangeDataEvent]) -> _Contents:
    contents: _Contents = defaultdict(list)
    for message in messages:
        for event in message.events:
            request = event.region_id, event.request_id
            contents[request] += event.entries.entries
            if event.HasField("error"):
                contents[request].append(FeedFault.CONGESTED)
            if event.HasField("resolved_ts"):
                contents[request].append(event.resolved_ts)
        for region_id in message.resolved_ts.regions:
            contents[region_id, message.resolved_ts.request_id].append(message.resolved_ts.ts)
    return {request: items for request, items in contents.items() if items}


def _decoded(messages: Sequence[ChangeDataEvent]) -> _Contents:
    contents: _Contents = defaultdict(list)
    for item in decode_frames([message.SerializeToString() for message in messages]):
        if isinstance(item, RegionsProgress):
            for region_id in item.region_ids:
                contents[region_id, item.request_id].append(item.resolved_ts)
            continue
        region_id, request_id, content = item
        if isinstance(content, FeedError):
            contents[region_id, request_id].append(content.fault)
        else:
            contents[region_id, request_id] += decode_changes(content)
    return {request: items for request, items in contents.items() if items}


@pytest.mark.parametrize("changes_only", [True, False])
@pytest.mark.parametrize("request_ids", [(0,), (1, 2), (0, 1, 2)])
def test_messages_have_the_same_contents_when_parsed_together(
    request_ids: tuple[int, ...], *, changes_only: bool
) -> None:
    for seed in range(300):
        rng = Random(seed)
        messages = [
            _message(rng, request_ids, changes_only=changes_only) for _ in range(rng.randrange(6))
        ]
        assert _decoded(messages) == _expected(messages)
