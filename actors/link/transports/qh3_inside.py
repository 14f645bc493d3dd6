"""qh3's connection, opened up: everything of that library that a link needs and the library keeps to itself.

Whether it is all there is tried before the first connection (`check`): another qh3 may have it elsewhere, or nowhere.
"""

from __future__ import annotations

import dataclasses
import logging
import ssl
from importlib.metadata import version
from typing import Any, Final

from qh3 import tls
from qh3.quic import connection as qh3_connection
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection, QuicConnectionError
from qh3.quic.events import ConnectionTerminated
from qh3.quic.tls_bridge import QuicTlsBridge, QuicTlsTrafficSecret

from actors.link.transports.interface import TransportError
from actors.runtime.udp import Address
from protocol.quic.sealing import PacketKeys, Suite
from protocol.quic.transport_parameters import replace_parameters

MOST_PATHS: Final = 4
"""Addresses of the peer that qh3 knows of a connection, and never forgets; packets from a fifth it drops."""
_CORE: Final = (
    *("receive_gro_buffer", "poll_transmit", "apply_peer_transport_parameters", "active_path", "send_key_phase"),
    *("congestion_window", "bytes_in_flight", "smoothed_rtt", "loss_total", "pto_total"),
)
_TLS: Final = ("remote_initial_source_connection_id", "remote_transport_parameters", "stateless_reset_token")
_FACADE: Final = ("_drain_core", "_close_event", "_remote_max_datagram_frame_size")


class Qh3Error(TransportError):
    """The installed qh3 is none that this node can use; says why, and what to do."""


class Bridge(QuicTlsBridge):
    """The connection's TLS: its transport parameters are ours where they have to be, and it remembers a secret."""

    sending: PacketKeys | None = None
    """Of our 1-RTT packets, before any key update."""

    def serialize_transport_parameters(self) -> bytes:
        """Theirs, with ours in their place (wire spec 5.3)."""
        return replace_parameters(super().serialize_transport_parameters())

    def next_traffic_secret(self) -> QuicTlsTrafficSecret | None:
        """As ever."""
        found = super().next_traffic_secret()
        if found is not None and found.direction == tls.Direction.ENCRYPT and found.epoch == tls.Epoch.ONE_RTT:
            self.sending = PacketKeys(Suite(found.cipher_suite), found.secret)
        return found


class Connection(QuicConnection):
    """A QUIC connection. `now` is monotonic seconds; whatever fails is a `QuicConnectionError`."""

    @property
    def core(self) -> Any:
        """The packets' half; None of a server that has heard nothing yet."""
        return self._core

    @property
    def bridge(self) -> Bridge | None:
        """The half that is TLS; None likewise."""
        bridge = self._tls
        assert bridge is None or isinstance(bridge, Bridge)
        return bridge

    @property
    def over(self) -> ConnectionTerminated | None:
        """How it ended. The event comes when its last timer has run."""
        return self._close_event

    @property
    def largest_frame(self) -> int:
        """Bytes of the largest DATAGRAM frame that the peer takes; 0 while that is unknown, or where it takes none."""
        return self._remote_max_datagram_frame_size or 0

    @property
    def peer_id_bytes(self) -> int:
        """Of the connection ids by which the peer is known."""
        return len(self._tls.remote_initial_source_connection_id or b"") if self._tls else 0

    def receive_bunch(self, data: bytes, size: int, sender: Address, now: float) -> None:
        """Datagrams of `size` bytes one behind the other, once the handshake is done.

        Below the call that is made for this, which looks at each datagram for a log that nobody keeps.
        """
        self.core.receive_gro_buffer(data, size, sender, now)
        self._drain_core()

    def cap(self, size: int) -> None:
        """Makes no datagram larger than `size` from now on: as if the peer had said so in its transport parameters."""
        bridge = self._tls
        if bridge is None or bridge.remote_transport_parameters is None:
            return
        # A reset token may be told but once.
        bridge.remote_transport_parameters = dataclasses.replace(
            bridge.remote_transport_parameters, max_udp_payload_size=size, stateless_reset_token=None
        )
        self._drain_tls()


def check() -> None:
    """Looks whether all that this file reaches for is there. Raises `Qh3Error`."""
    try:
        trial = Connection(configuration=QuicConfiguration(is_client=True, verify_mode=ssl.CERT_NONE))
        trial.connect(("::1", 9, 0, 0), 0.0)
        bridge = trial.bridge
    except (AttributeError, TypeError, AssertionError, QuicConnectionError) as error:
        raise _unusable(f"a trial failed: {error!r}") from None
    for owner, names in ((trial.core, _CORE), (bridge, _TLS), (trial, _FACADE)):
        for name in names:
            if not hasattr(owner, name):
                raise _unusable(f"its {type(owner).__name__} has no {name}")
    if not isinstance(trial.core.active_path, tuple) or not isinstance(trial.core.active_path[-1], int):
        raise _unusable("the path of a connection does not end with its MTU")


def _unusable(why: str) -> Qh3Error:
    return Qh3Error(
        f"no QUIC here: qh3 {version('qh3')} is none that this node can use ({why}); "
        "install the version that constraints.txt names, or --disable-quic"
    )


# What it logs of a peer's doing we say ourselves, in our own form.
logging.getLogger("quic").addHandler(logging.NullHandler())
logging.getLogger("quic").propagate = False
# The class that a connection makes its TLS half of is a global of its module.
vars(qh3_connection)["QuicTlsBridge"] = Bridge
