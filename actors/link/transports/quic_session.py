"""One QUIC connection in memory, by qh3, as a link uses it.

What it does not do for us: it sends DATAGRAM frames without regard to the congestion window (`room` says what is left),
its server never looks for a larger path MTU, and neither side notices that a path has become smaller (`question`).
"""

from __future__ import annotations

import datetime
import functools
import itertools
import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnectionError
from qh3.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    ConnectionTerminated,
    DatagramFrameReceived,
    HandshakeCompleted,
    PingAcknowledged,
    StreamDataReceived,
    StreamReset,
)

from actors.link.transports.qh3_inside import Connection
from actors.runtime.udp import Address
from protocol.quic.headers import CONNECTION_ID_BYTES
from protocol.quic.last_will import LastWill
from protocol.quic.sealing import TAG_BYTES, PacketKeys, SealingError
from protocol.quic.transport_parameters import LARGEST_PAYLOAD

SMALLEST_PAYLOAD: Final = 1200
IDLE_SECONDS: Final = 60.0
STREAM_WINDOW: Final = 10 << 20
CONNECTION_WINDOW: Final = 16 << 20
MOST_IN_FLIGHT: Final = 4 << 20
"""Whatever the congestion window says: more than the receiver's socket holds is only lost."""
STREAM: Final = 0
"""The first that a client opens; all control of both ways goes there (wire spec 5.4)."""
_AROUND_A_DATAGRAM: Final = 1 + 4 + 16 + 3
"""First byte, packet number, tag, frame type and length; and the connection id (wire spec 5.5)."""
_LONG_HEADER: Final = 0x80
BORNE_SECONDS: Final = 3.0
"""For so long qh3 may refuse to make a packet."""
MOST_QUESTIONS: Final = 64
"""That nobody answered yet; then the oldest is forgotten."""
_PADDING: Final = b"\0"
_SERVER_NAME: Final = "dummy.mycelium"


class QuicSessionError(Exception):
    """qh3 could not do what it was asked; says why."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A server's certificate and its key, in PEM. Clients of this protocol look at neither (wire spec 5.3)."""

    certificate: bytes
    key: bytes

    @classmethod
    def make(cls, name: str) -> Identity:
        """A new one, with `name` as its DNS name; takes less than a millisecond."""
        key = ec.generate_private_key(ec.SECP256R1())
        nobody = x509.Name([])
        made = (
            x509.CertificateBuilder()
            .subject_name(nobody)
            .issuer_name(nobody)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.datetime(1975, 1, 1))
            .not_valid_after(datetime.datetime(4096, 1, 1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        plain = serialization.NoEncryption()
        return cls(
            made.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain),
        )


@functools.cache
def identity_of(public_key: bytes) -> Identity:
    """This process's identity for the node of this key: its name is a router-id's text (wire spec 1.5 and 5.3)."""
    return Identity.make(f"{public_key.hex()}-0000-{os.urandom(6).hex()}")


@dataclass(slots=True)
class Happened:
    """What became of what was received."""

    handshake: bool = False
    stream: bytes = b""
    stream_ended: bool = False
    datagrams: tuple[bytes, ...] = ()
    ids_changed: bool = False
    answered: tuple[int, ...] = ()
    """Sizes of questions to the path that arrived."""
    closed: str | None = None
    """Why the connection is over, for people."""


class QuicSession:
    """Client or server. `now` is monotonic seconds."""

    def __init__(self, connection: Connection) -> None:
        self._quic: Final = connection
        self._ids = {connection.host_cid}
        self.handshaken = False
        self._keys: PacketKeys | None = None
        self._sent = 0
        """Datagrams; close to the packet number of the last."""
        self._destination = b""
        """The connection id in them."""
        self._will = LastWill()
        self._borne_since: float | None = None
        self._numbers = itertools.count(1)
        self._questions: dict[int, int] = {}
        """Sizes of those on their way, by their numbers."""

    @classmethod
    def dial(cls, address: Address, now: float) -> QuicSession:
        """A client's, towards `address`."""
        # From the smallest on: the client looks for more by itself.
        configuration = _configuration(is_client=True, largest=SMALLEST_PAYLOAD)
        configuration.server_name = _SERVER_NAME
        configuration.verify_mode = ssl.CERT_NONE
        made = cls(Connection(configuration=configuration))
        made._quic.connect(address, now)
        return made

    @classmethod
    def accept(cls, identity: Identity, original: bytes, retried: bytes, largest: int) -> QuicSession:
        """A server's, for a client that first went to connection id `original`, and after a retry to `retried`."""
        configuration = _configuration(is_client=False, largest=max(SMALLEST_PAYLOAD, min(largest, LARGEST_PAYLOAD)))
        configuration.load_cert_chain(identity.certificate, identity.key)
        return cls(
            Connection(
                configuration=configuration,
                original_destination_connection_id=original,
                retry_source_connection_id=retried or None,
            )
        )

    # --- the network's side -----------------------------------------------------------------------------------------

    def receive(self, data: bytes, size: int, sender: Address, now: float) -> None:
        """Datagrams of `size` bytes each one behind the other, the last maybe shorter. Raises `QuicSessionError`."""
        try:
            if not self.handshaken:
                for start in range(0, len(data), size):
                    self._quic.receive_datagram(data[start : start + size], sender, now)
            else:
                self._quic.receive_bunch(data, size, sender, now)
        except (QuicConnectionError, RuntimeError, ValueError, AssertionError) as error:
            raise QuicSessionError(f"QUIC failed: {error}") from None

    def transmit(self, now: float) -> list[tuple[bytes, Address]]:
        """Datagrams to send, and where to. Raises `QuicSessionError`."""
        found: list[tuple[bytes, Address]] = []
        core = self._core
        if core is None:
            return found
        self._keep_up_with_updates()
        poll = core.poll_transmit
        try:
            # As in `receive`, below the call that is made for this.
            while (transmit := poll(now)) is not None:
                found.append(transmit[:2])
        except RuntimeError as error:
            self._bear(error, now)
        else:
            self._borne_since = None
        if found:
            self._sent += len(found)
            last = found[-1][0]
            if not last[0] & _LONG_HEADER:
                self._destination = last[1 : 1 + self._quic.peer_id_bytes]
        return found

    def _bear(self, error: RuntimeError, now: float) -> None:
        """Waits for what passes: a peer whose new address is not proven yet may be sent less than the next packet.

        Raises `QuicSessionError` where it does not pass.
        """
        if self._borne_since is None:
            self._borne_since = now
        elif now - self._borne_since > BORNE_SECONDS:
            raise QuicSessionError(f"QUIC failed: {error}") from None

    @property
    def _core(self) -> Any:
        """The packets' half of the connection; None of a server that has heard nothing yet."""
        return self._quic.core

    def deadline(self) -> float | None:
        """When `on_time` has to be called."""
        return self._quic.get_timer()

    def on_time(self, now: float) -> None:
        """The deadline has passed. Raises `QuicSessionError`."""
        try:
            self._quic.handle_timer(now)
        except QuicConnectionError as error:
            raise QuicSessionError(f"QUIC failed: {error}") from None

    # --- the link's side ----------------------------------------------------------------------------------------------

    def happened(self) -> Happened:
        """What has happened since the last call."""
        found = Happened()
        stream: list[bytes] = []
        datagrams: list[bytes] = []
        answered: list[int] = []
        while (event := self._quic.next_event()) is not None:
            match event:
                case DatagramFrameReceived():
                    datagrams.append(event.data)
                case StreamDataReceived() if event.stream_id == STREAM:
                    stream.append(event.data)
                    found.stream_ended |= event.end_stream
                case StreamReset() if event.stream_id == STREAM:
                    found.stream_ended = True
                case HandshakeCompleted():
                    found.handshake = self.handshaken = True
                case ConnectionIdIssued():
                    self._ids.add(event.connection_id)
                    found.ids_changed = True
                case ConnectionIdRetired():
                    self._ids.discard(event.connection_id)
                    found.ids_changed = True
                case PingAcknowledged():
                    answered.append(self._questions.pop(event.uid, 0))
                case ConnectionTerminated():
                    found.closed = _words_of(event)
        found.stream, found.datagrams, found.answered = b"".join(stream), tuple(datagrams), tuple(answered)
        over = self._quic.over
        if over is not None and found.closed is None:
            # The event comes when the last timer has run; by then nobody should wait any more.
            found.closed = _words_of(over)
        return found

    def send_stream(self, data: memoryview) -> None:
        """Queues bytes for the stream. Raises `QuicSessionError`."""
        try:
            self._quic.send_stream_data(STREAM, data)
        except QuicConnectionError as error:
            raise QuicSessionError(f"QUIC failed: {error}") from None

    def send_datagram(self, data: bytes) -> None:
        """Queues a datagram of at most `datagram_limit` bytes. Raises `QuicSessionError`."""
        try:
            self._quic.send_datagram_frame(data)
        except QuicConnectionError as error:
            raise QuicSessionError(f"QUIC failed: {error}") from None

    def ping(self) -> None:
        """Asks the peer for an acknowledgement. Raises `QuicSessionError`."""
        try:
            self._quic.send_ping(0)
        except QuicConnectionError as error:
            raise QuicSessionError(f"QUIC failed: {error}") from None

    @property
    def window(self) -> int:
        """Bytes that may be on their way at a time."""
        core = self._core
        return 0 if core is None else min(int(core.congestion_window), MOST_IN_FLIGHT)

    @property
    def room(self) -> int:
        """Bytes that may be sent now besides those on their way; may be negative."""
        core = self._core
        return 0 if core is None else self.window - int(core.bytes_in_flight)

    @property
    def in_flight(self) -> int:
        """Bytes on their way for which an acknowledgement is owed."""
        core = self._core
        return 0 if core is None else int(core.bytes_in_flight)

    @property
    def stream_backlog(self) -> int:
        """Bytes of the stream that were never sent."""
        return self._quic.get_send_buffer_size(STREAM)

    @property
    def datagram_limit(self) -> int:
        """Bytes of the largest packet that goes in one datagram: no peer dies of it, and qh3 takes it."""
        core = self._core
        if core is None or not self.handshaken:
            return 0
        theirs = self._quic.largest_frame
        around = _AROUND_A_DATAGRAM + max(CONNECTION_ID_BYTES, self._quic.peer_id_bytes)
        return max(0, min(self.path_mtu - around, theirs - _AROUND_A_DATAGRAM))

    @property
    def path_mtu(self) -> int:
        """Bytes of UDP payload that the path is known to carry; what is larger is a question to it."""
        core = self._core
        return SMALLEST_PAYLOAD if core is None else int(core.active_path[-1])

    @property
    def remote(self) -> Address | None:
        """Where it sends to at present."""
        core = self._core
        return None if core is None else core.active_path[2]

    @property
    def ids(self) -> Iterable[bytes]:
        """The connection ids by which the peer may name us."""
        return self._ids

    @property
    def reset_token(self) -> bytes:
        """A server's, by which its client knows that we have forgotten it; empty of a client."""
        bridge = self._quic.bridge
        return b"" if bridge is None or bridge.stateless_reset_token is None else bridge.stateless_reset_token

    @property
    def losses(self) -> int:
        """Packets that were lost so far, and how often an answer was overdue."""
        core = self._core
        return 0 if core is None else int(core.loss_total) + int(core.pto_total)

    @property
    def round_trip(self) -> float | None:
        """Seconds to the peer and back, on average; None while unknown."""
        core = self._core
        return None if core is None else core.smoothed_rtt

    def question(self, size: int, now: float) -> tuple[bytes, Address] | None:
        """A datagram of `size` bytes to send alone, of which `Happened` tells when the peer acknowledges it.

        None where there is nothing to ask with. To be called when `transmit` has given all. Raises `QuicSessionError`.
        """
        keys, core = self._keys, self._core
        if keys is None or core is None:
            return None
        number = next(self._numbers)
        try:
            self._quic.send_ping(number)
            transmit = core.poll_transmit(now)
        except QuicConnectionError as error:
            raise QuicSessionError(f"QUIC failed: {error}") from None
        except RuntimeError as error:
            self._bear(error, now)
            return None
        if transmit is None:
            return None
        self._sent += 1
        datagram, address = transmit[:2]
        if len(datagram) < size:
            datagram = self._padded(keys, datagram, size)
        while len(self._questions) >= MOST_QUESTIONS:
            del self._questions[next(iter(self._questions))]
        self._questions[number] = len(datagram)
        return datagram, address

    def _padded(self, keys: PacketKeys, datagram: bytes, size: int) -> bytes:
        """The packet made larger: it leaves in this form alone, so that its number is used once (RFC 9001 5.3)."""
        try:
            opened = keys.open(datagram, self._quic.peer_id_bytes, self._sent)
        except SealingError as error:
            raise QuicSessionError(f"QUIC failed: our own {error}") from None
        around = len(keys.seal(opened.destination, opened.number, bytes(TAG_BYTES))) - TAG_BYTES
        return keys.seal(opened.destination, opened.number, opened.payload.ljust(size - around, _PADDING))

    def cap(self, size: int) -> None:
        """Makes datagrams of at most `size` bytes from now on, at least the smallest. Raises `QuicSessionError`."""
        try:
            self._quic.cap(max(SMALLEST_PAYLOAD, size))
        except QuicConnectionError as error:
            raise QuicSessionError(f"QUIC failed: {error}") from None

    def last_will(self) -> bytes | None:
        """What ends the connection if this process is killed, where the last one is of no use any more."""
        if self._keys is None or not self._destination:
            return None
        return self._will.renewed(self._keys, self._destination, self._sent)

    def _keep_up_with_updates(self) -> None:
        """Knows the keys that the next packet is sealed with: qh3 follows each key update of the peer at once.

        None is missed: the peer begins no second one before it has seen a packet of ours after the first.
        """
        keys = self._keys
        if keys is None:
            bridge = self._quic.bridge
            self._keys = keys = None if bridge is None or not self.handshaken else bridge.sending
        if keys is not None and keys.phase != self._core.send_key_phase:
            self._keys = keys.next()

    def close(self) -> None:
        """Tells the peer that it is over, with what `transmit` gives next."""
        self._quic.close()


def _configuration(*, is_client: bool, largest: int) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=is_client,
        # The reference refuses whoever offers one.
        alpn_protocols=None,
        connection_id_length=CONNECTION_ID_BYTES,
        idle_timeout=IDLE_SECONDS,
        max_data=CONNECTION_WINDOW,
        max_stream_data=STREAM_WINDOW,
        max_datagram_size=largest,
        max_datagram_frame_size=65_535,
        probe_datagram_size=True,
    )


def _words_of(event: ConnectionTerminated) -> str:
    if event.reason_phrase:
        return f"the QUIC connection ended: {event.reason_phrase} (error {event.error_code:#x})"
    return "the peer closed the connection" if not event.error_code else f"the peer closed: error {event.error_code:#x}"
