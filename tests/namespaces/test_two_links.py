"""Two links to one neighbour, on two networks: when the one in use goes, the other carries on, and no byte is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.lab.flow import FlowReport, start_receiver, start_sender
from tests.lab.namespaces import Lab, Switch, stop_process
from tests.lab.nodes import LISTEN_PORT, SeptateNode
from tests.lab.ping import Pinger, ping_until_reply
from tests.lab.waiting import wait_until
from tests.namespaces.networks import REACH_TIMEOUT

pytestmark = pytest.mark.namespaces

SILENT_SECONDS = 5.0
"""What docs/operate.md promises for a cable that is cut in silence, under traffic."""
AT_ONCE_SECONDS = 1.5
"""And for our own interface."""
LOOK_SECONDS = 0.5
"""What a busy machine may add."""
ENDLESS = 10**12
PAUSE = 0.02
"""Between blocks of 256 KiB: a stream that lasts, and leaves the processors to others."""


class Twice:
    """Two nodes on two switches; the first dials the second by TCP on one and by QUIC on the other."""

    def __init__(self, lab: Lab) -> None:
        left, right = lab.namespace("near"), lab.namespace("far")
        self.switches = {"TCP": lab.switch(), "QUIC": lab.switch()}
        peers = []
        for transport, switch in self.switches.items():
            switch.join(left)
            peers.append(f"{transport.lower()}://{switch.join(right)}:{LISTEN_PORT}")
        self.far = SeptateNode(lab, right).start()
        self.near = SeptateNode(lab, left, peers=peers).start()
        self.near.wait_until_up()
        self.far.wait_until_up()
        self.wait()

    def wait(self) -> None:
        """Waits until both links are there at both ends, and in use."""
        for node in (self.near, self.far):
            node.wait_for_links(2)
        ping_until_reply(self.near.namespace, self.far.address, REACH_TIMEOUT)
        ping_until_reply(self.far.namespace, self.near.address, REACH_TIMEOUT)

    def in_use(self) -> str:
        """The transport that the dialling node sends over."""
        (route,) = self.near.api.get("/api/v1/admin/routes/selected")
        return str(route["nextHop"]).partition(" ")[0]


@pytest.fixture(scope="module")
def twice(module_lab: Lab) -> Twice:
    return Twice(module_lab)


def go_on_after(twice: Twice, trouble: Callable[[Switch], None], noticed: float, healed: float) -> str:
    """Makes trouble on the network of the link in use, beside a TCP flow; returns which that was.

    Within `noticed` seconds the other one is in use; the longest time without a ping's answer is `healed` seconds; and
    the flow arrives as it was sent.
    """
    used = twice.in_use()
    receiver = start_receiver(twice.far.namespace)
    sender = start_sender(twice.near.namespace, twice.far.address, receiver.port, ENDLESS, pause=PAUSE)
    pinger = Pinger(twice.near.namespace, twice.far.address)
    try:
        pinger.wait_first_reply(REACH_TIMEOUT)
        trouble(twice.switches[used])
        wait_until("the other link is in use", lambda: _other(twice, used), noticed + LOOK_SECONDS)
        ping_until_reply(twice.near.namespace, twice.far.address, REACH_TIMEOUT)
        after = time.monotonic()
        ping_until_reply(twice.near.namespace, twice.far.address, REACH_TIMEOUT)
        report = pinger.stop()
        sender.terminate()
        output = sender.communicate(timeout=REACH_TIMEOUT)[0]
        sent, arrived = FlowReport(**json.loads(output)), receiver.finish()
    finally:
        pinger.kill()
        stop_process(sender)
        receiver.kill()
    assert (arrived.bytes, arrived.sha256) == (sent.bytes, sent.sha256)
    assert sent.bytes > 0
    assert report.echoes[-1].sent > after
    assert report.longest_gap() <= healed + LOOK_SECONDS
    return used


def _other(twice: Twice, used: str) -> bool:
    routes = twice.near.api.get("/api/v1/admin/routes/selected") or []
    return any(not route["nextHop"].startswith(used) for route in routes)


def test_flow_survives_a_cable_that_is_cut_in_silence_under_either_link(twice: Twice) -> None:
    far, cut = twice.far.namespace, set()
    for _ in twice.switches:
        twice.wait()
        try:
            cut.add(go_on_after(twice, lambda switch: switch.unplug(far), SILENT_SECONDS, SILENT_SECONDS))
        finally:
            for switch in twice.switches.values():
                switch.plug(far)
    assert cut == {"TCP", "QUIC"}


def test_flow_survives_an_interface_that_goes_down_under_either_link(twice: Twice) -> None:
    near, gone = twice.near.namespace, set()

    def take_down(switch: Switch) -> None:
        near.ip("link", "set", switch.device(), "down")

    for _ in twice.switches:
        twice.wait()
        try:
            # The neighbour, whose interface stays up, notices by the silence, and sends the other way until then.
            gone.add(go_on_after(twice, take_down, AT_ONCE_SECONDS, SILENT_SECONDS))
        finally:
            for switch in twice.switches.values():
                near.ip("link", "set", switch.device(), "up")
    assert gone == {"TCP", "QUIC"}
