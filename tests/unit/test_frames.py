"""Every frame type: its bytes, its checks, and that nobody changes the layout without a new schema."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import hashlib
from collections import Counter
from itertools import accumulate
from typing import Any

import msgpack
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocol import frames
from protocol.codec import FrameError, pack, topic, unpack
from protocol.frames import (
    MAX_BODIES,
    MAX_BODIES_BYTES,
    MAX_CHANGES,
    MAX_PART,
    MAX_PART_BYTES,
    MAX_RUN_BYTES,
    MAX_SLOTS,
    SCHEMA,
    ActorList,
    ActorRow,
    AddPeer,
    AddressTraffic,
    AdoptLink,
    AllowedList,
    AllowedRow,
    Answer,
    AskActors,
    AskAllowed,
    AskLinks,
    AskMessage,
    AskOutbox,
    AskPeers,
    AskPublicKey,
    AskQueried,
    AskRoutes,
    AskTable,
    AskTopics,
    AskTraffic,
    CancelMessage,
    ChangeAllowed,
    ChangeTopic,
    ConnectionIds,
    ControlArrived,
    DeviceFailed,
    DeviceReady,
    Direction,
    EndLink,
    Figures,
    ForwardedDatagram,
    Heartbeat,
    Hello,
    LaneHello,
    LastWill,
    LinkGone,
    LinkList,
    LinkOpened,
    LinkRow,
    LinkUp,
    MessageFailed,
    MessageFailure,
    MessageHead,
    MessagePart,
    MessagePushed,
    MessageRoute,
    MessagesOpened,
    MessagesSealed,
    NoMessage,
    OpenDatagramSocket,
    OpenSocket,
    OutboxList,
    OutboxRow,
    OutboxState,
    Outcome,
    Packets,
    PacketsSeen,
    PairTraffic,
    PartTaken,
    PeerList,
    PeerRow,
    PublicKeyAnswer,
    PushMessage,
    PushPart,
    PushTaken,
    QueriedList,
    QueriedRow,
    Ready,
    Recovered,
    RemovePeer,
    ReportUndelivered,
    Resolve,
    Returned,
    Role,
    RouteDelta,
    RouteEntry,
    RouteKind,
    RouteList,
    RouteRow,
    RouteState,
    RouteUsed,
    SealMessages,
    SendControl,
    SocketKind,
    SocketOpened,
    SpawnLink,
    StillWaiting,
    Stop,
    StopWaiting,
    TableEpoch,
    TablePart,
    TableSerial,
    TopicChange,
    TopicList,
    TopicRow,
    Traffic,
    TrafficList,
    Undelivered,
    in_parts,
    lengths_of,
    opened_head,
    opened_heads,
    pack_lengths,
    pack_packets,
    sealing_head,
    sealing_heads,
    unpack_packets,
)
from protocol.mycelium.endpoint import Protocol

LAYOUT: dict[int, str] = {2: "3d732364c5d04e1d"}
"""A digest of all that both ends have to agree on, by schema: one that differs needs a number of its own."""

NETWORK = bytes.fromhex("04000000000000010000000000000000")
KEY = bytes(range(32))
ENTRY = RouteEntry(NETWORK, 64, RouteState.SELECTED, 3, KEY, True)
FIGURES = Figures(1.25, 4096, {"outgoing": 2}, {"sends.full": 1})
ROW = ActorRow("tun", Role.TUN, "tun mycelium", 4711, 65.5, 2, True, 1.25, 4096, {"q": 1}, {"c": 2})
PEER = PeerRow("tcp://192.0.2.1:9651", "tcp://192.0.2.1:9651", "static", "alive", 7, 10, 20, 3.5, None, "")
LENGTHS = bytes.fromhex("0200000003000000")
MESSAGE_ID = bytes.fromhex("0102030405060708")
HEAD = MessageHead(MESSAGE_ID, NETWORK, KEY, NETWORK, b"demo", 5)
SENT = OutboxRow(MESSAGE_ID, NETWORK, b"demo", False, OutboxState.SENDING, 1, 2, 3, 1.5, 301.5, 5)

EXAMPLES: tuple[Any, ...] = (
    Hello(SCHEMA, Role.ROUTER, "router", 4711),
    Ready(),
    Heartbeat(FIGURES),
    Stop("SIGTERM"),
    OpenSocket(9, SocketKind.TCP_IPV6),
    SocketOpened(9, "cannot open a socket"),
    SpawnLink(7, "tcp://192.0.2.1:9651", True, Protocol.TLS, b"read", "tcp://peer:9651"),
    EndLink(7, "no Hello"),
    LinkGone(7, "ended"),
    AskActors(5),
    ActorList(5, (ROW,), True),
    DeviceReady(KEY, True, ("made a new key",)),
    DeviceFailed("there is no /dev/net/tun"),
    TableEpoch(2**63),
    RouteDelta(1, 2, (ENTRY,)),
    TableSerial(1, 2),
    AskTable(),
    TablePart(1, 2, 0, (ENTRY, ENTRY), False),
    Resolve(NETWORK, 64),
    RouteUsed((NETWORK,)),
    LinkOpened(7),
    ForwardedDatagram(7, "192.0.2.1:9651", b"\x40"),
    ConnectionIds(7, (bytes(8), bytes(range(8))), bytes(16)),
    OpenDatagramSocket(9, "[::]:9651", "[2001:db8::1]:9651"),
    LinkUp(7, "tcp://192.0.2.1:9651", 5, True, False),
    ControlArrived(7, b"\x01\x00\x00\x00"),
    SendControl(7, b"\x01\x00\x00\x00"),
    AdoptLink(7, "tcp://192.0.2.1:9651", True, Protocol.TCP, b"", 1, 0),
    LastWill(7, b"sealed"),
    Traffic(7, 100, 200, (PairTraffic(NETWORK, NETWORK, 1, 1400),)),
    Packets(7, LENGTHS, b"aabbb", b""),
    Returned(bytes(32)),
    LaneHello(SCHEMA, 3, 32),
    Recovered(),
    ReportUndelivered(Undelivered.HOP_LIMIT, b"packet"),
    AskPeers(5),
    PeerList(5, (PEER,), False),
    AddPeer(5, "tcp://192.0.2.1:9651"),
    RemovePeer(5, "tcp://192.0.2.1:9651"),
    Answer(5, Outcome.EXISTS, "known already"),
    AskRoutes(5, RouteKind.FALLBACK),
    RouteList(5, (RouteRow(NETWORK, 64, "tcp://192.0.2.1:9651", 10, 65535),), False),
    AskQueried(5),
    QueriedList(5, (QueriedRow(NETWORK, 64, 4.5),), False),
    AskPublicKey(5, NETWORK),
    PublicKeyAnswer(5, KEY),
    AskTraffic(5),
    TrafficList(5, (AddressTraffic(NETWORK, 1, 1400),), (), True),
    PacketsSeen("tun", Direction.OUT, bytes(40)),
    MessagesOpened(opened_head(NETWORK, NETWORK, KEY, 0xFFFF, 2), b"ab"),
    SealMessages(2**63, 1, sealing_head(NETWORK, NETWORK, 0, 2), b"ab"),
    MessagesSealed(2**63, 1),
    MessageRoute(bytes(8), True),
    StillWaiting(5),
    CancelMessage(5, MESSAGE_ID),
    PushMessage(5, NETWORK, b"demo", b"", 1000, b"key", 5, b"hel"),
    PushPart(5, 3, b"lo"),
    PushTaken(5, 3),
    MessagePushed(5, MESSAGE_ID),
    MessageFailed(5, MessageFailure.FULL, "4096 messages are on their way"),
    AskMessage(5, None, True, 0),
    MessagePart(5, HEAD, 0, b"hel", True),
    PartTaken(5, 3),
    NoMessage(5),
    StopWaiting(5),
    AskOutbox(5, MESSAGE_ID),
    OutboxList(5, (SENT,), False),
    AskTopics(5, b"demo"),
    TopicList(5, True, (TopicRow(b"demo", ("400::/7",), "/run/demo.sock"),), False),
    ChangeTopic(5, TopicChange.ADD_SOURCE, b"demo", "400::/7"),
    AskAllowed(5),
    AllowedList(5, (AllowedRow("any tcp/22", True, 3, 180, 2.5),), 7, 1),
    ChangeAllowed(5, True, "any icmp"),
    AskLinks(5),
    LinkList(5, (LinkRow(7, "TCP a <-> b", KEY, 10, 17, None, 3),), False),
)
KINDS = [type(example) for example in EXAMPLES]


def _declared() -> dict[str, type[Any]]:
    return {
        name: value
        for name, value in vars(frames).items()
        if isinstance(value, type)
        and value.__module__.startswith(f"{frames.__name__}.")
        and (dataclasses.is_dataclass(value) or issubclass(value, enum.Enum))
    }


def _topic(kind: type[Any]) -> bytes:
    # Records, which are parts of frames, have none.
    try:
        return topic(kind)
    except KeyError:
        return b""


def test_every_frame_type_has_an_example_here() -> None:
    assert {kind for kind in _declared().values() if dataclasses.is_dataclass(kind) and _topic(kind)} == set(KINDS)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_frame_comes_back_as_it_was(example: Any) -> None:
    assert unpack(pack(example)) == example


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_topic_is_how_the_packed_frame_begins(example: Any) -> None:
    assert pack(example).startswith(topic(type(example)))


def test_no_two_frames_have_the_same_number() -> None:
    numbers = Counter(topic(kind)[1] for kind in KINDS)
    assert [number for number, times in numbers.items() if times > 1] == []


def test_frames_of_the_channel_and_frames_of_sockets_have_numbers_apart() -> None:
    on_channel = {kind.__name__ for kind in KINDS if topic(kind)[1] < 0x20}
    assert on_channel == {
        *("Hello", "Ready", "Heartbeat", "Stop", "OpenSocket", "SocketOpened", "SpawnLink", "EndLink", "LinkGone"),
        *("AskActors", "ActorList", "DeviceReady", "DeviceFailed", "AdoptLink", "OpenDatagramSocket", "LastWill"),
    }


_FIELDS = [(example, number) for example in EXAMPLES for number in range(len(dataclasses.fields(example)))]


@pytest.mark.parametrize(
    ("example", "number"),
    _FIELDS,
    ids=[f"{type(example).__name__}.{dataclasses.fields(example)[number].name}" for example, number in _FIELDS],
)
def test_wrong_type_in_any_field_is_refused_by_name(example: Any, number: int) -> None:
    parts = msgpack.unpackb(pack(example))
    parts[1 + number] = msgpack.ExtType(1, b"belongs nowhere")
    name = f"{type(example).__name__}.{dataclasses.fields(example)[number].name}"
    with pytest.raises(FrameError, match=f"^{name}: ExtType where"):
        unpack(msgpack.packb(parts))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_a_field_too_many_or_too_few_is_refused_by_name(example: Any) -> None:
    parts = msgpack.unpackb(pack(example))
    for wrong in ([*parts, 0], *([parts[:-1]] if len(parts) > 1 else [])):
        with pytest.raises(FrameError, match=f"^{type(example).__name__} has {len(parts) - 1} fields, not"):
            unpack(msgpack.packb(wrong))


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=40) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(kind=st.sampled_from(KINDS), values=st.lists(_values, max_size=8))
def test_any_values_in_any_frame_give_a_frame_or_the_one_error(kind: type[Any], values: list[Any]) -> None:
    width = len(dataclasses.fields(kind))
    data = msgpack.packb([topic(kind)[1], *(values * width)[:width]])
    try:
        message = unpack(data)
    except FrameError as error:
        named = str(error).startswith(kind.__name__)
    else:
        named = type(message) is kind
    assert named


@given(number=st.integers(0, 0x7F), rest=st.binary(max_size=64))
def test_any_bytes_behind_any_number_give_a_frame_or_the_one_error(number: int, rest: bytes) -> None:
    for fields in range(1, 6):
        try:
            unpack(bytes((0x90 | fields, number)) + rest)
        except FrameError:
            continue


# --- recorded bytes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (Hello(1, Role.TUN, "tun", 4711), "950101a374756ea374756ecd1267"),
        (Ready(), "9102"),
        (
            Heartbeat(Figures(0.5, 20992, {"a": 1}, {"b": 2})),
            "920394cb3fe0000000000000cd520081a1610181a16202",
        ),
        (
            SpawnLink(7, "tcp://[::1]:9651", False, Protocol.TLS, b"", "tcp://[::1]:9651"),
            "970707b07463703a2f2f5b3a3a315d3a39363531c2a3746c73c400" + "b07463703a2f2f5b3a3a315d3a39363531",
        ),
        (
            RouteDelta(1, 2, (RouteEntry(NETWORK, 64, RouteState.RESOLVING, 0, b"", False),)),
            "9421010291" + "96c41004000000000000010000000000000000400200c400c2",
        ),
        (AskTable(), "9122"),
        (Packets(7, LENGTHS, b"aabbb", b""), "954007c4080200000003000000c4056161626262c400"),
        (Returned(bytes(15) + b"\x01"), "9241c410" + "00" * 15 + "01"),
        (Answer(3, Outcome.MISSING, "gone"), "94540302a4676f6e65"),
        (AskRoutes(3, RouteKind.SELECTED), "935503a873656c6563746564"),
        (PacketsSeen("tun", Direction.IN, b"\x01"), "9460a374756ea2696ec40101"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_bytes_of_a_frame_are_those_of_its_schema(message: Any, data: str) -> None:
    assert pack(message).hex() == data
    assert unpack(bytes.fromhex(data)) == message


def test_layout_changes_with_the_schema_only() -> None:
    lines = []
    for name, kind in sorted(_declared().items()):
        if issubclass(kind, enum.Enum):
            lines.append(" ".join((name, *(f"{member.name}={member.value!r}" for member in kind))))
        else:
            body = (f"{field.name}:{field.type}" for field in dataclasses.fields(kind))
            lines.append(" ".join((name, _topic(kind).hex(), *body)))
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert digest == LAYOUT[SCHEMA], "the layout of frames changed: give SCHEMA its next number, and note its digest"


# --- what frames check of themselves ----------------------------------------------------------------------------------


def test_link_numbers_start_at_one() -> None:
    with pytest.raises(FrameError, match="link 0 where numbers start at 1"):
        SpawnLink(0, "tcp://192.0.2.1:9651", True, Protocol.TCP, b"", "tcp://192.0.2.1:9651")


@pytest.mark.parametrize(("network", "length"), [(bytes(15), 64), (bytes(17), 64), (bytes(16), -1), (bytes(16), 129)])
def test_prefix_of_another_size_is_refused(network: bytes, length: int) -> None:
    with pytest.raises(FrameError, match="a prefix has 16 bytes and 0 to 128 bits"):
        RouteEntry(network, length, RouteState.SELECTED, 1, KEY, False)


def test_key_of_another_size_is_refused() -> None:
    with pytest.raises(FrameError, match="a public key has 32 bytes, not 31"):
        RouteEntry(NETWORK, 64, RouteState.SELECTED, 1, bytes(31), False)


def test_wrong_entry_inside_a_table_is_refused_with_its_place() -> None:
    parts = msgpack.unpackb(pack(RouteDelta(1, 2, (ENTRY,))))
    parts[3][0][1] = 200
    with pytest.raises(FrameError, match=r"^RouteDelta\.changes: RouteEntry: a prefix has"):
        unpack(msgpack.packb(parts))


def test_delta_has_a_bound() -> None:
    RouteDelta(1, 1, (ENTRY,) * MAX_CHANGES)
    with pytest.raises(FrameError, match=f"{MAX_CHANGES + 1} changes in one delta"):
        RouteDelta(1, 1, (ENTRY,) * (MAX_CHANGES + 1))


@pytest.mark.parametrize(
    ("lengths", "payload", "reason"),
    [
        (b"", b"", "without packets"),
        (b"", b"a", "don't add up"),
        (b"\x01\x00\x00", b"a", "don't add up"),
        (LENGTHS, b"aabb", "don't add up"),
        (LENGTHS, b"aabbbb", "don't add up"),
        (pack_lengths([2**32 - 1, 2**32 - 1]), b"", "don't add up"),
        (pack_lengths([4, 0]), b"aabb", "an empty packet"),
        (pack_lengths([MAX_RUN_BYTES + 1]), bytes(MAX_RUN_BYTES + 1), "at most"),
    ],
)
def test_run_of_packets_has_to_add_up(lengths: bytes, payload: bytes, reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        Packets(7, lengths, payload, b"")


@pytest.mark.parametrize("pieces", [b"", b"\x01", bytes(24)])
def test_pieces_that_come_back_are_pairs_of_numbers(pieces: bytes) -> None:
    with pytest.raises(FrameError, match="bytes of pieces that come back"):
        Returned(pieces)


@pytest.mark.parametrize(("arena", "slots"), [(0, 32), (1, 0), (1, MAX_SLOTS + 1)])
def test_arena_that_can_not_be_is_refused(arena: int, slots: int) -> None:
    with pytest.raises(FrameError, match=f"arena {arena} of {slots} slots"):
        LaneHello(SCHEMA, arena, slots)


def test_lengths_of_a_run_are_little_endian() -> None:
    assert lengths_of(bytes.fromhex("0200000000010000")) == (2, 256)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=64))
def test_lengths_come_back_as_they_were(lengths: list[int]) -> None:
    assert lengths_of(pack_lengths(lengths)) == tuple(lengths)


@pytest.mark.parametrize("count", [0, 1, MAX_PART, MAX_PART + 1, 3 * MAX_PART])
def test_rows_in_parts_are_all_rows_in_order_and_the_last_says_so(count: int) -> None:
    parts = list(in_parts(range(count)))
    assert [row for part, _ in parts for row in part] == list(range(count))
    assert [more for _, more in parts] == [True] * (len(parts) - 1) + [False]
    assert all(len(part) <= MAX_PART for part, _ in parts)


# --- the packet path's own way ----------------------------------------------------------------------------------------


@given(
    st.integers(0, 2**40),
    st.lists(st.integers(1, 300), max_size=40),
    st.binary(max_size=64),
)
def test_quick_way_to_pack_packets_makes_the_bytes_of_the_slow_one(link: int, sizes: list[int], pieces: bytes) -> None:
    assume(sizes or pieces)
    lengths, payload = pack_lengths(sizes), bytes(sum(sizes))
    data = pack_packets(link, lengths, payload, pieces)
    assert data == pack(Packets(link, lengths, payload, pieces))
    assert unpack_packets(data) == (link, tuple(accumulate(sizes)), payload, pieces)


def test_quick_way_leaves_other_frames_to_the_slow_one() -> None:
    assert unpack_packets(pack(Recovered())) is None


@pytest.mark.parametrize(
    "parts",
    [
        [0x40, 1, b"", b"", b""],
        [0x40, 1, b"", b"a", b""],
        [0x40, 1, b"\x01\x00\x00", b"a", b""],
        [0x40, 1, bytes.fromhex("01000000"), b"ab", b""],
        [0x40, 1, bytes.fromhex("0000000001000000"), b"a", b""],
        [0x40, 1, bytes.fromhex("0100000000000000"), b"a", b""],
        [0x40, "1", bytes.fromhex("01000000"), b"a", b""],
        [0x40, 1, bytes.fromhex("01000000"), "a", b""],
        [0x40, 1, pack_lengths([MAX_RUN_BYTES + 1]), bytes(MAX_RUN_BYTES + 1), b""],
    ],
)
def test_quick_way_is_as_strict_as_the_slow_one(parts: list[Any]) -> None:
    with pytest.raises(FrameError):
        unpack_packets(msgpack.packb(parts))


@given(st.binary(max_size=40))
def test_quick_way_takes_any_bytes_for_packets_or_refuses_them(garbage: bytes) -> None:
    with contextlib.suppress(FrameError):
        unpack_packets(b"\x95\x40" + garbage)


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heads", "bodies", "reason"),
    [
        (b"", b"", "bytes of heads"),
        (bytes(69), b"", "bytes of heads"),
        (opened_head(NETWORK, NETWORK, KEY, 0, 3), b"ab", "don't add up"),
        (opened_head(NETWORK, NETWORK, KEY, 0, 0) * (MAX_BODIES + 1), b"", "bytes of heads"),
        (opened_head(NETWORK, NETWORK, KEY, 0, MAX_BODIES_BYTES + 1), bytes(MAX_BODIES_BYTES + 1), "at most"),
    ],
)
def test_bodies_of_message_packets_have_to_add_up(heads: bytes, bodies: bytes, reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        MessagesOpened(heads, bodies)


def test_heads_of_message_packets_come_back_as_they_were() -> None:
    opened = [(NETWORK, bytes(16), KEY, 0xABCD, 5), (bytes(16), NETWORK, bytes(32), 0, 0)]
    assert list(opened_heads(b"".join(opened_head(*head) for head in opened))) == opened
    to_seal = [(NETWORK, bytes(16), 0xABCD, 5), (bytes(16), NETWORK, 0, 0)]
    assert list(sealing_heads(b"".join(sealing_head(*head) for head in to_seal))) == to_seal


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ((bytes(15), b"", b"", None, b"", 0, b""), "an address has 16 bytes"),
        ((NETWORK, b"", bytes(7), None, b"", 0, b""), "a message id has 8 bytes"),
        ((NETWORK, b"", b"", -1, b"", 0, b""), "a wait of -1 ms"),
        ((NETWORK, b"", b"", None, bytes(65), 0, b""), "idempotency key of 65 bytes"),
        ((NETWORK, b"", b"", None, b"", 1, b"ab"), "in a message of 1"),
        ((NETWORK, b"", b"", None, b"", 2, b""), "a first part without data"),
        ((NETWORK, b"", b"", None, b"", MAX_PART_BYTES + 1, bytes(MAX_PART_BYTES + 1)), "at most"),
    ],
)
def test_message_that_can_not_be_pushed_is_refused(fields: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        PushMessage(1, *fields)


def test_head_of_a_message_is_in_its_first_part_only() -> None:
    with pytest.raises(FrameError, match="belongs into its first part"):
        MessagePart(1, None, 0, b"", False)
    with pytest.raises(FrameError, match="belongs into its first part"):
        MessagePart(1, HEAD, 1, b"", False)
