"""The tun actor: traffic between the host and the overlay; the only process that holds the node key.

Owns      the TUN descriptor (none under --no-tun), the node key, its arena, packets of the host that wait
Rights    no capability; not dumpable; Landlock: the runtime folder; it read the key file before it gave up the rest
Receives  Packets, ReportUndelivered (links, over lanes); RouteDelta, TablePart (router); AskAllowed, ChangeAllowed;
          SealMessages (messagebox)
Sends     Packets (links, over lanes); Resolve, RouteUsed (router); Traffic (peers); PacketsSeen (whoever listens);
          MessagesOpened, MessagesSealed, MessageRoute (messagebox); AllowedList, Answer
Dies      the device stays and the kernel queues; its successor goes on with the same descriptor, the same rules of
          who may come in, and the host's flows

The packet path, out (`outbound.py`):
 1. the TUN device is read until it is empty or a round is full; the kernel hands over super-packets
 2. what can't go is answered at once: own subnet, foreign source, hop limit
 3. the pair of addresses leads to link and cipher, or the packet waits while the router resolves; where the link has
    enough to do, flows queue here and take turns
 4. a super-packet goes whole where the whole way and the other end take it, else it is cut into segments
 5. each is sealed where it lies, in a slot of the arena, with its header in front
 6. what goes to the same link leaves in one frame

The packet path, in (`inbound.py`):
 7. the source leads to the cipher, or the packet waits while the router resolves
 8. each packet is opened; inner and outer addresses must agree; where there are rules, the gate must let it in
 9. super-packets and merged runs of packets are written to the TUN device in one piece each
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from actors.runtime import keyfile
from actors.runtime.actor import Runtime
from actors.runtime.birth import BirthError
from actors.runtime.exchange import ArenaConfig, Exchange, Packed
from actors.runtime.table import TableFollower
from actors.tun.admission import Admission, AdmissionConfig
from actors.tun.answers import Answers
from actors.tun.device import Device
from actors.tun.inbound import Inbound
from actors.tun.messages import Messages
from actors.tun.outbound import Outbound
from actors.tun.sealing import Sealer
from protocol.admission.gate import Gate
from protocol.frames import ReportUndelivered, RouteEntry, RouteState, RouteUsed, Traffic
from protocol.mycelium.identity import KeyFileError, address_of, public_key
from protocol.mycelium.remotes import Remotes

REPORT_SECONDS: Final = 1.0
USED_SECONDS: Final = 5.0
EXPIRE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class TunConfig:
    """What tun holds when it starts."""

    secret: bytes
    """The node key. Never printed: see `__repr__`."""
    device: int
    """Descriptor of the TUN device, -1 for none."""
    mtu: int
    """Of the device, bytes."""
    udp_offload: bool
    """Whether the device takes super-packets of UDP (Linux 6.2 and later)."""
    arena: ArenaConfig
    """Of this incarnation."""
    admission: AdmissionConfig
    """Who may come in."""

    def __repr__(self) -> str:
        return f"TunConfig(device={self.device}, mtu={self.mtu})"


def prepare(
    device: int,
    mtu: int,
    udp_offload: bool,
    arena: ArenaConfig,
    admission: AdmissionConfig,
    key_file: Path,
    node: bytes,
) -> TunConfig:
    """Reads the key while this process still may.

    Raises `BirthError` where that is not the key of `node`, the public key that everybody else goes by.
    """
    try:
        secret = keyfile.load(key_file)
    except FileNotFoundError:
        raise BirthError(
            f"the key file {key_file} is gone: put it back, or restart the node, which then makes a new key and has a "
            "new address"
        ) from None
    except KeyFileError as error:
        raise BirthError(str(error)) from None
    if public_key(secret) != node:
        raise BirthError(
            f"the key file {key_file} holds another key than when this node started: put the old one back, or restart "
            "the node to give it the new address"
        )
    return TunConfig(secret, device, mtu, udp_offload, arena, admission)


def main(runtime: Runtime, config: TunConfig) -> None:
    """Runs the actor."""
    Tun(runtime, config)
    runtime.serve()


class Tun:
    """Ties the two directions to the device, the table and the links."""

    def __init__(self, runtime: Runtime, config: TunConfig) -> None:
        self._runtime = runtime
        self._router = router = runtime.connect("router", answers=True)
        self._peers = runtime.connect("peers")
        address = address_of(public_key(config.secret))
        remotes = Remotes(config.secret)
        table = TableFollower(runtime, router, self._on_routes, self._ask_again).table
        device = Device(config.device, runtime.counters)
        self._exchange = Exchange(
            runtime, config.arena, on_run=self._on_run, on_room=self._on_room, on_report=self._on_report
        )
        sealer = Sealer(runtime, self._exchange)
        self._answers = Answers(runtime, device, address, remotes, table, router, self._exchange, sealer)
        self._out = Outbound(runtime, device, address, remotes, table, router, self._exchange, sealer, self._answers)
        resolves, turns = self._out.resolves, self._out.take_turns
        self._messages = Messages(runtime, address, remotes, table, router, self._exchange, sealer, resolves, turns)
        self._in = Inbound(runtime, device, config.udp_offload, address, remotes, table, router, self._messages)

        self._admission = Admission(runtime, config.admission, self._on_gate)

        runtime.loop.every(REPORT_SECONDS, self._each_second)
        runtime.loop.every(USED_SECONDS, self._report_used)
        runtime.loop.every(EXPIRE_SECONDS, self._expire)
        if config.device >= 0:
            runtime.loop.watch(config.device, self._out.on_device)

    def _on_gate(self, gate: Gate | None) -> None:
        self._in.gate = self._out.gate = gate

    def _on_run(self, _link: int, run: Packed) -> None:
        self._in.on_run(run)
        if run.lease is not None:
            self._exchange.give_back(run.lease)

    def _on_room(self) -> None:
        self._out.on_room()
        self._messages.on_room()

    def _on_report(self, report: ReportUndelivered) -> None:
        self._answers.on_undelivered(report)

    def _on_routes(self, changes: Sequence[RouteEntry]) -> None:
        self._report_traffic()
        self._out.forget_routes()
        self._in.forget_routes()
        self._admission.forget_routes()
        for change in changes:
            prefix = change.network[:8]
            if change.state in (RouteState.SELECTED, RouteState.UNREACHABLE):
                self._in.release(prefix)
            if change.state == RouteState.SELECTED:
                self._out.release(prefix)
            elif change.state in (RouteState.FORGOTTEN, RouteState.UNREACHABLE):
                self._out.give_up(prefix)
            if change.state == RouteState.FORGOTTEN:
                self._in.give_up(prefix)
        self._messages.on_routes(changes)

    def _ask_again(self) -> None:
        # A new router process has not heard what its predecessor was asked.
        self._out.ask_again()
        self._in.ask_again()
        self._messages.ask_again()

    def _each_second(self) -> None:
        self._answers.errors.next_second()
        self._out.resolves.next_second()
        self._in.resolves.next_second()
        self._report_traffic()

    def _report_traffic(self) -> None:
        pairs = (*self._out.flows.take_traffic(), *self._messages.flows.take_traffic())
        if pairs:
            self._peers.send(Traffic(0, 0, 0, pairs))

    def _report_used(self) -> None:
        networks = tuple({*self._out.flows.take_used(), *self._messages.flows.take_used()})
        if networks:
            self._router.send(RouteUsed(networks))

    def _expire(self) -> None:
        self._out.expire()
        self._in.expire()
        self._messages.expire()
