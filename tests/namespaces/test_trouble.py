"""Trouble on the way to a peer is noticed in the time that docs/operate.md promises, and mended at once."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from tests.lab.namespaces import Lab
from tests.lab.nodes import SeptateNode
from tests.lab.ping import Pinger, ping_until_reply
from tests.lab.waiting import wait_until
from tests.namespaces.networks import REACH_TIMEOUT
from tests.namespaces.proxies import proxies, relay

pytestmark = pytest.mark.namespaces

UNDER_TRAFFIC_SECONDS = 5.0
IDLE_SECONDS = 15.0
AT_ONCE_SECONDS = 1.5
"""With the kernel's own second for a carrier that is gone."""


def state(node: SeptateNode, where: str) -> str:
    """How the node sees its peer at an address."""
    for peer in node.api.get("/api/v1/admin/peers") or []:
        if where in str(peer["endpoint"]["addr"]):
            return str(peer["connectionState"])
    return "unknown"


def alive(node: SeptateNode, where: str) -> Callable[[], bool]:
    return lambda: state(node, where) == "alive"


def not_alive(node: SeptateNode, where: str) -> Callable[[], bool]:
    return lambda: state(node, where) not in ("alive", "unknown")


def seconds_until(what: str, probe: Callable[[], bool], most: float) -> float:
    begin = time.monotonic()
    wait_until(what, probe, most + 3.0, interval=0.05)
    return time.monotonic() - begin


class Pair:
    """Two nodes on one switch: unplugged, neither sees its carrier go."""

    def __init__(self, lab: Lab) -> None:
        left, right = lab.namespace("near"), lab.namespace("far")
        self.switch = lab.switch()
        self.near_address, self.far_address = self.switch.join(left), self.switch.join(right)
        self.far = SeptateNode(lab, right).start()
        self.near = SeptateNode(lab, left, peers=[self.far.endpoint(self.far_address)]).start()
        self.near.wait_until_up()
        self.far.wait_until_up()
        self.wait()

    def wait(self) -> None:
        """Waits until they reach each other."""
        ping_until_reply(self.near.namespace, self.far.address, REACH_TIMEOUT)


@pytest.fixture(scope="module")
def pair(module_lab: Lab) -> Pair:
    return Pair(module_lab)


def test_cable_cut_in_silence_is_noticed_under_traffic_and_mended_when_it_is_back(pair: Pair) -> None:
    pair.wait()
    pinger = Pinger(pair.near.namespace, pair.far.address, interval=0.1, count=400)
    pair.switch.unplug(pair.far.namespace)
    try:
        noticed = seconds_until("noticed", not_alive(pair.near, pair.far_address), UNDER_TRAFFIC_SECONDS)
    finally:
        pair.switch.plug(pair.far.namespace)
        pinger.stop()
    assert noticed <= UNDER_TRAFFIC_SECONDS + 0.5
    pair.wait()


def test_cable_cut_in_silence_is_noticed_without_traffic(pair: Pair) -> None:
    pair.wait()
    pair.switch.unplug(pair.far.namespace)
    try:
        noticed = seconds_until("noticed", not_alive(pair.near, pair.far_address), IDLE_SECONDS)
    finally:
        pair.switch.plug(pair.far.namespace)
    assert noticed <= IDLE_SECONDS
    pair.wait()


def test_interface_that_goes_down_is_noticed_at_once_and_its_return_too(pair: Pair) -> None:
    pair.wait()
    device = pair.switch.device()
    pair.near.namespace.ip("link", "set", device, "down")
    try:
        noticed = seconds_until("noticed", not_alive(pair.near, pair.far_address), AT_ONCE_SECONDS)
    finally:
        pair.near.namespace.ip("link", "set", device, "up")
    assert noticed <= AT_ONCE_SECONDS
    mended = seconds_until("mended", alive(pair.near, pair.far_address), AT_ONCE_SECONDS)
    assert mended <= AT_ONCE_SECONDS


def test_changed_address_is_noticed_at_once(pair: Pair) -> None:
    pair.wait()
    device, address = pair.switch.device(), pair.near_address
    other = address.rsplit(".", 1)[0] + ".77"
    pair.near.namespace.ip("address", "del", f"{address}/24", "dev", device)
    try:
        noticed = seconds_until("noticed", not_alive(pair.near, pair.far_address), AT_ONCE_SECONDS)
        assert noticed <= AT_ONCE_SECONDS
        pair.near.namespace.ip("address", "add", f"{other}/24", "dev", device)
        assert seconds_until("mended", alive(pair.near, pair.far_address), AT_ONCE_SECONDS) <= AT_ONCE_SECONDS
        wait_until("the far end sees the new one", alive(pair.far, other), 5.0)
    finally:
        pair.near.namespace.ip("address", "flush", "dev", device, "scope", "global")
        pair.near.namespace.ip("address", "add", f"{address}/24", "dev", device)
    pair.wait()


def test_killed_peer_is_noticed_at_once_and_dialled_again(pair: Pair) -> None:
    pair.wait()
    pair.far.kill()
    noticed = seconds_until("noticed", not_alive(pair.near, pair.far_address), AT_ONCE_SECONDS)
    assert noticed <= AT_ONCE_SECONDS
    pair.far.start()
    pair.far.wait_until_up()
    pair.wait()


# --- names, proxies, callers ------------------------------------------------------------------------------------------


def test_peer_by_name_and_peer_behind_a_proxy_are_reached(pair: Pair, lab: Lab) -> None:
    third = lab.namespace("third")
    address = pair.switch.join(third)
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


def test_caller_from_a_denied_prefix_is_not_let_in(pair: Pair, lab: Lab) -> None:
    third = lab.namespace("strict")
    address = pair.switch.join(third)
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
