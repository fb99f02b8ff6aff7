"""Connections that send more than authenticated calls need."""

from contextlib import ExitStack

import pytest

from pyspark_theflash.net.inflow import FREE_BYTES, MESSAGES_MAX, NEW_FACTOR, NEW_S, Inflow

MESSAGE = 1 << 20
PEER, PLACE = "ipv4:127.0.0.1:9000", "127.0.0.1:9000"
ME, OTHER = "token 1", "token 2"


def check(inflow, received, sent=0):
    return inflow.check({PLACE: (received, sent)}, 0).over


@pytest.fixture
def inflow():
    return Inflow(MESSAGE)


def test_a_connection_without_a_call_has_a_limit(inflow):
    for _ in range(3):
        assert check(inflow, FREE_BYTES) == set()
    assert check(inflow, FREE_BYTES + 1) == {PLACE}


def test_a_call_that_starts_late_raises_it(inflow):
    assert check(inflow, 2 * FREE_BYTES) == {PLACE}
    with inflow.receiving(PEER, ME):
        pass
    for _ in range(3):
        assert check(inflow, 2 * FREE_BYTES) == set()
    assert check(inflow, 4 * FREE_BYTES) == {PLACE}


def test_a_call_may_receive_its_message(inflow):
    with inflow.receiving(PEER, ME):
        assert check(inflow, 0) == set()
        with inflow.receiving(PEER, ME):
            assert check(inflow, 0) == set()
            for _ in range(3):
                assert check(inflow, 2 * MESSAGE + FREE_BYTES) == set()
    for _ in range(3):
        assert check(inflow, 2 * MESSAGE + FREE_BYTES) == set()


def test_a_call_whose_message_is_larger_is_closed(inflow):
    with inflow.receiving(PEER, ME):
        check(inflow, 0)
        check(inflow, MESSAGE + FREE_BYTES + 1)
        assert check(inflow, MESSAGE + FREE_BYTES + 1) == {PLACE}


def test_a_caller_may_send_a_few_large_messages_at_a_time(inflow):
    sizes = {1: MESSAGE, 2: MESSAGE // 2, 3: MESSAGE - 1, 4: 1, 5: MESSAGE // 2}
    connections = {f"127.0.0.1:{port}": (FREE_BYTES + size, 0) for port, size in sizes.items()}
    with ExitStack() as calls:
        for port in sizes:
            identity = OTHER if port == 5 else ME
            calls.enter_context(inflow.receiving(f"ipv4:127.0.0.1:{port}", identity))
        inflow.check(dict.fromkeys(connections, (0, 0)), 0)
        assert inflow.check(connections, 0).over == {"127.0.0.1:2", "127.0.0.1:4"}


def test_messages_that_take_turns_have_a_limit_together(inflow):
    places = [f"127.0.0.1:{port}" for port in range(20)]
    received = dict.fromkeys(places, FREE_BYTES)
    with ExitStack() as calls:
        for place in places:
            calls.enter_context(inflow.receiving(f"ipv4:{place}", ME))
        inflow.check(dict.fromkeys(places, (0, 0)), 0)
        step = MESSAGE // 10
        for _ in range(100):
            counts = {place: (size, 0) for place, size in received.items()}
            for place in set(places) - inflow.check(counts, 0).over:
                received[place] += step
    sent = sum(received.values()) - FREE_BYTES * len(places)
    assert sent <= 2 * MESSAGES_MAX * MESSAGE + step * len(places)
    assert max(received.values()) > MESSAGE  # a message arrives


def test_readers_of_rows_acknowledge_them(inflow):
    for n in range(100):
        assert check(inflow, n << 20, n << 25) == set()
    # What was not used is not saved.
    check(inflow, 100 << 20, 1 << 40)
    for _ in range(2):
        closed = check(inflow, 100 << 20 | FREE_BYTES + 1, 1 << 40)
    assert closed == {PLACE}


def test_trusted_connections_have_no_limit_until_they_end(inflow):
    inflow.trust(PEER)
    for n in range(3):
        assert check(inflow, n << 30) == set()
    inflow.check({}, 0)
    assert check(inflow, 1 << 30) == set()
    for _ in range(2):
        inflow.check({}, 0)
    check(inflow, 1 << 30)
    assert check(inflow, 1 << 30) == {PLACE}


def test_a_connection_may_begin_after_they_were_listed(inflow):
    inflow.trust(PEER)
    with inflow.receiving("ipv4:127.0.0.1:9001", ME):
        pass
    inflow.check({}, 0)
    for _ in range(3):
        assert inflow.check({PLACE: (1 << 30, 0), "127.0.0.1:9001": (MESSAGE, 0)}, 0).over == set()


@pytest.mark.parametrize(
    ("peer", "place"),
    [(PEER, PLACE), ("ipv6:%5B::1%5D:12", "[::1]:12"), ("ipv6:[fe80::1%252]:12", "[fe80::1]:12")],
)
def test_names_of_grpc_are_places(inflow, peer, place):
    inflow.trust(peer)
    for _ in range(3):
        assert inflow.check({place: (1 << 30, 0)}, 0).over == set()


def places(*ports):
    return {f"127.0.0.1:{port}": (0, 0) for port in ports}


def test_the_oldest_of_too_many_without_a_call_are_closed():
    inflow = Inflow(MESSAGE, 2)

    def closed(now_s, *ports):
        return [int(each.split(":")[1]) for each in inflow.check(places(*ports), now_s).surplus]

    assert closed(0, 3, 4) == []
    assert closed(1, 1, 2, 3, 4, 5, 6) == []
    assert closed(NEW_S, 1, 2, 3, 4, 5, 6) == [3, 4]
    inflow.trust("ipv4:127.0.0.1:1")
    inflow.admit("ipv4:127.0.0.1:2", lambda: lambda: None)
    assert closed(NEW_S + 1, 1, 2, 5, 6) == []
    assert closed(NEW_S + 1, 1, 2, 5, 6, 7) == [5]
    inflow.reject("ipv4:127.0.0.1:7")
    assert closed(NEW_S + 1, 1, 2, 6, 7, 8) == [7]
    # Another connection has the place of the one that was rejected.
    assert closed(NEW_S + 1, 1, 2, 6, 7, 8) == [6]


def test_the_oldest_of_far_too_many_new_ones_are_closed():
    inflow = Inflow(MESSAGE, 2)
    assert inflow.check(places(*range(2 * NEW_FACTOR)), 0).surplus == []
    closed = inflow.check(places(*range(2 * NEW_FACTOR + 1)), 0).surplus
    assert closed == ["127.0.0.1:0"]


def test_connections_are_counted_from_their_first_call_to_their_end(inflow):
    counted = []

    def acquire():
        if len(counted) == 2:
            raise ValueError("two already")
        counted.append(PEER)
        return counted.pop

    def admit(port):
        inflow.admit(f"ipv4:127.0.0.1:{port}", acquire)

    admit(1)
    assert counted == []  # no check has begun
    inflow.check({}, 0)
    for port in (1, 2, 1):
        admit(port)
    with pytest.raises(ValueError, match="two already"):
        admit(3)
    inflow.check(places(1), 0)
    assert len(counted) == 2  # the second may have begun after they were listed
    inflow.check(places(1), 0)
    assert len(counted) == 1
    admit(3)
