"""Trouble on the way to a peer is noticed in the time that docs/operate.md promises, and mended at once."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest

from tests.lab.namespaces import Lab, Switch
from tests.lab.nodes import LISTEN_PORT, SeptateNode
from tests.lab.ping import Pinger, ping_until_reply
from tests.lab.waiting import WaitError, wait_until
from tests.namespaces.networks import REACH_TIMEOUT
from tests.namespaces.proxies import proxies, relay

pytestmark = pytest.mark.namespaces

TRANSPORTS = ("tcp", "quic", "tls")
SILENT_SECONDS = 5.0
AT_ONCE_SECONDS = 1.5
"""With the kernel's own second for a carrier that is gone, and QUIC's for an address that may come."""
KILLED_QUIC_SECONDS = 3.0
LOOK_SECONDS = 0.5
"""What it may take to ask all nodes, on a busy machine."""

Probes = dict[str, Callable[[], bool]]


def state(node: SeptateNode, where: str) -> str:
    """How the node sees its peer at an address."""
    for peer in node.api.get("/api/v1/admin/peers") or []:
        if where in str(peer["endpoint"]["addr"]):
            return str(peer["connectionState"])
    return "unknown"


class Pair:
    """Two nodes on one switch, the first of which dials the second."""

    def __init__(self, lab: Lab, switch: Switch, transport: str) -> None:
        self.transport = transport
        left, right = lab.namespace(f"near-{transport}"), lab.namespace(f"far-{transport}")
        self.near_address, self.far_address = switch.join(left), switch.join(right)
        options: list[str] = []
        if transport == "tls":
            key_file = lab.folder / "network-key"
            key_file.write_bytes(bytes(range(32)))
            options = ["--network-name", "trouble", "--network-key-file", str(key_file)]
        self.far = SeptateNode(lab, right, options=options).start()
        endpoint = f"{transport}://{self.far_address}:{LISTEN_PORT}"
        self.near = SeptateNode(lab, left, peers=[endpoint], options=options).start()

    def near_is_connected(self) -> bool:
        """As the one who dials sees it."""
        return state(self.near, self.far_address) == "alive"

    def far_is_connected(self) -> bool:
        """As the one who listens sees it, who forgets callers that are gone."""
        return state(self.far, self.near_address) == "alive"

    def near_is_not(self) -> bool:
        return state(self.near, self.far_address) not in ("alive", "unknown")

    def far_is_not(self) -> bool:
        return not self.far_is_connected()


class Pairs:
    """A pair for each transport, all on one switch: unplugged, neither end sees its carrier go."""

    def __init__(self, lab: Lab) -> None:
        self.switch = lab.switch()
        self.all = tuple(Pair(lab, self.switch, transport) for transport in TRANSPORTS)
        for pair in self.all:
            pair.near.wait_until_up()
            pair.far.wait_until_up()
        self.wait()

    def wait(self) -> None:
        """Waits until all reach each other, both ways."""
        pingers = [
            Pinger(source.namespace, target.address, until_reply=REACH_TIMEOUT)
            for pair in self.all
            for source, target in ((pair.near, pair.far), (pair.far, pair.near))
        ]
        for pinger in pingers:
            assert pinger.finish(REACH_TIMEOUT + 10.0).received

    @contextlib.contextmanager
    def traffic(self) -> Iterator[None]:
        """A ping every 100 ms, both ways of each pair."""
        ways = [(pair.near, pair.far) for pair in self.all] + [(pair.far, pair.near) for pair in self.all]
        pingers = [Pinger(source.namespace, target.address, interval=0.1) for source, target in ways]
        try:
            yield
        finally:
            for pinger in pingers:
                pinger.kill()

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Between the ends of each pair nothing gets through, and nobody is told."""
        for pair in self.all:
            self.switch.unplug(pair.far.namespace)
        try:
            yield
        finally:
            for pair in self.all:
                self.switch.plug(pair.far.namespace)

    @contextlib.contextmanager
    def down(self, nodes: Sequence[SeptateNode]) -> Iterator[None]:
        """The interfaces of these are down, and they are told."""
        for node in nodes:
            node.namespace.ip("link", "set", self.switch.device(), "down")
        try:
            yield
        finally:
            for node in nodes:
                node.namespace.ip("link", "set", self.switch.device(), "up")


def assert_within(seconds: float, what: str, probes: Probes) -> None:
    """Every probe becomes true so soon from now on."""
    begin, took = time.monotonic(), dict[str, float]()

    def all_true() -> bool:
        for name, probe in probes.items():
            if name not in took and probe():
                took[name] = round(time.monotonic() - begin, 2)
        return len(took) == len(probes)

    try:
        wait_until(what, all_true, seconds + 3.0, interval=0.05)
    except WaitError as error:
        raise WaitError(f"{error}; not {sorted(probes.keys() - took.keys())}; others after {took}") from None
    assert max(took.values()) <= seconds + LOOK_SECONDS, f"{what}: {took}"


@pytest.fixture(scope="module")
def pairs(module_lab: Lab) -> Pairs:
    return Pairs(module_lab)


def both_ends_notice(pairs: Pairs) -> Probes:
    return {f"{pair.transport}, who dials": pair.near_is_not for pair in pairs.all} | {
        f"{pair.transport}, who listens": pair.far_is_not for pair in pairs.all
    }


def test_cable_cut_in_silence_is_noticed_under_traffic_and_mended_when_it_is_back(pairs: Pairs) -> None:
    pairs.wait()
    with pairs.traffic(), pairs.cut():
        assert_within(SILENT_SECONDS, "noticed", both_ends_notice(pairs))
    pairs.wait()


def test_cable_cut_in_silence_is_noticed_without_traffic(pairs: Pairs) -> None:
    pairs.wait()
    with pairs.cut():
        assert_within(SILENT_SECONDS, "noticed", both_ends_notice(pairs))
    pairs.wait()


def test_interface_of_who_dials_that_goes_down_is_noticed_at_once_and_its_return_too(pairs: Pairs) -> None:
    pairs.wait()
    with pairs.down([pair.near for pair in pairs.all]):
        assert_within(AT_ONCE_SECONDS, "noticed", {pair.transport: pair.near_is_not for pair in pairs.all})
    assert_within(AT_ONCE_SECONDS, "mended", {pair.transport: pair.near_is_connected for pair in pairs.all})


def test_interface_of_who_listens_that_goes_down_is_noticed_at_once(pairs: Pairs) -> None:
    pairs.wait()
    with pairs.down([pair.far for pair in pairs.all]):
        assert_within(AT_ONCE_SECONDS, "noticed", {pair.transport: pair.far_is_not for pair in pairs.all})
    pairs.wait()


def test_changed_address_is_noticed_at_once(pairs: Pairs) -> None:
    # A QUIC link goes on from the new one: tests/namespaces/test_quic.py.
    changing = {f"10.78.{pairs.switch.number}.{77 + at}": pair for at, pair in enumerate(pairs.all) if at != 1}
    assert "quic" not in {pair.transport for pair in changing.values()}
    pairs.wait()
    device = pairs.switch.device()
    for pair in changing.values():
        pair.near.namespace.ip("address", "del", f"{pair.near_address}/24", "dev", device)
    try:
        assert_within(AT_ONCE_SECONDS, "noticed", {pair.transport: pair.near_is_not for pair in changing.values()})
        for other, pair in changing.items():
            pair.near.namespace.ip("address", "add", f"{other}/24", "dev", device)
        assert_within(AT_ONCE_SECONDS, "mended", {pair.transport: pair.near_is_connected for pair in changing.values()})
        for other, pair in changing.items():
            wait_until(
                "the far end sees the new one", partial(lambda *ends: state(*ends) == "alive", pair.far, other), 5
            )
    finally:
        for pair in changing.values():
            pair.near.namespace.ip("address", "flush", "dev", device, "scope", "global")
            pair.near.namespace.ip("address", "add", f"{pair.near_address}/24", "dev", device)
    pairs.wait()


def test_killed_peer_is_noticed_at_once_and_dialled_again(pairs: Pairs) -> None:
    pairs.wait()
    by_quic = [pair for pair in pairs.all if pair.transport == "quic"]
    with pairs.traffic():
        for pair in pairs.all:
            pair.far.kill()
        others = {pair.transport: pair.near_is_not for pair in pairs.all if pair not in by_quic}
        assert_within(AT_ONCE_SECONDS, "noticed", others)
        # Its machine has nothing to tell us before we send.
        assert_within(KILLED_QUIC_SECONDS, "noticed", {pair.transport: pair.near_is_not for pair in by_quic})
    for pair in pairs.all:
        pair.far.start()
    for pair in pairs.all:
        pair.far.wait_until_up()
    pairs.wait()


# --- names, proxies, callers ------------------------------------------------------------------------------------------


def test_peer_by_name_and_peer_behind_a_proxy_are_reached(pairs: Pairs, lab: Lab) -> None:
    pair = pairs.all[0]
    third = lab.namespace("third")
    address = pairs.switch.join(third)
    heard = list[bytes]()
    with proxies(third, {1080: relay(third, pair.far_address, heard)}):
        # The system's own name for the machine; what is asked for behind the proxy is for the proxy to know.
        named = ("--named-peer", "socks://localhost:1080/far.example.org:9651")
        node = SeptateNode(lab, third, options=named).start()
        node.wait_until_up()
        ping_until_reply(third, pair.far.address, REACH_TIMEOUT)
        assert heard[1] == b"\x05\x01\x00\x03\x0ffar.example.org\x25\xb3"
        assert state(node, "[::]:9651") == "alive"
        assert state(pair.far, address) == "alive"
        node.stop()


def test_caller_from_a_denied_prefix_is_not_let_in(pairs: Pairs, lab: Lab) -> None:
    pair = pairs.all[0]
    third = lab.namespace("strict")
    address = pairs.switch.join(third)
    strict = SeptateNode(lab, third, options=("--deny-peer", f"{pair.near_address}/32")).start()
    strict.wait_until_up()
    for place, may in ((pair.near.namespace, False), (pair.far.namespace, True)):
        with place.socket(socket.AF_INET, socket.SOCK_STREAM) as caller:
            caller.settimeout(5)
            caller.connect((address, 9651))
            if may:
                caller.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    caller.recv(1)
            else:
                assert caller.recv(1) == b""
    strict.stop()
