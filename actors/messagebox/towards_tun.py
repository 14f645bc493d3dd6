"""Message packets on their way to tun, which seals and sends them: at most so much in its hands, small ones first."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

from actors.runtime.actor import Runtime, Sent
from protocol.codec import pack
from protocol.frames import MessagesSealed, SealMessages, sealing_head
from protocol.mycelium.messages.events import Send
from protocol.mycelium.messages.packets import Chunk

TUN: Final = b"tun"
CREDIT_BYTES: Final = 1 << 20
"""In tun's hands, or on the way there."""
FRAME_BYTES: Final = 256 << 10
FRAME_BODIES: Final = 1024
QUEUE_BYTES: Final = 16 << 20
"""What waits for tun: some windows. What goes beyond is dropped, and repeated when it is time."""
SILENT_SECONDS: Final = 1.0
"""After so long without a word tun has lost what it had: a successor says so, but that, too, may be lost."""
LOOK_SECONDS: Final = 0.25
_OVERHEAD: Final = 64
"""Counted for each body, so that small ones are bounded, too."""


class TowardsTun:
    """Queues and credit."""

    def __init__(self, runtime: Runtime, life: int) -> None:
        """`life`: a number of this process, not 0."""
        self._runtime = runtime
        self._counters: Counter[str] = runtime.counters
        self._life = life
        self._number = 0
        self._small: deque[tuple[bytes, bytes]] = deque()
        """(head, body)"""
        self._chunks: deque[tuple[bytes, bytes]] = deque()
        self._waiting = 0
        self._in_hand: deque[tuple[int, int]] = deque()
        """(number of the frame, its bytes)"""
        self._in_hand_bytes = 0
        self._heard = runtime.loop.now()
        runtime.on(MessagesSealed, self._on_sealed)
        self._looking = False
        runtime.gauges.queue("unsealed_bytes", lambda: self._waiting)

    def add(self, send: Send) -> None:
        """A packet to be sent; `flush` sends."""
        packet = send.packet
        body = packet.encode()
        if self._waiting + len(body) > QUEUE_BYTES:
            self._counters["dropped.unsealed_full"] += 1
            return
        head = sealing_head(send.source, send.destination, packet.echo.inner, len(body))
        # An acknowledgement that waits behind chunks would have those of the other end sent twice.
        (self._chunks if type(packet) is Chunk else self._small).append((head, body))
        self._waiting += len(body) + _OVERHEAD

    def flush(self) -> None:
        """Sends what tun may have."""
        while self._in_hand_bytes < CREDIT_BYTES and (self._small or self._chunks):
            if not self._send_frame():
                break
        if (self._in_hand or self._waiting) and not self._looking:
            self._looking = True
            self._runtime.loop.call_after(LOOK_SECONDS, self._look)

    def _send_frame(self) -> bool:
        heads: list[bytes] = []
        bodies: list[bytes] = []
        octets = 0
        while octets < FRAME_BYTES and len(heads) < FRAME_BODIES:
            queue = self._small or self._chunks
            if not queue:
                break
            head, body = queue.popleft()
            heads.append(head)
            bodies.append(body)
            octets += len(body)
        self._waiting -= octets + _OVERHEAD * len(heads)
        frame = SealMessages(self._life, self._number + 1, b"".join(heads), b"".join(bodies))
        sent = self._runtime.offer(TUN, pack(frame))
        if sent is not Sent.TAKEN:
            # It is being restarted, or hangs: what is lost is repeated by who waits for it.
            self._counters["dropped.unsealed"] += len(heads)
            return False
        self._number += 1
        if not self._in_hand:
            self._heard = self._runtime.loop.now()
        self._in_hand.append((self._number, octets + _OVERHEAD * len(heads)))
        self._in_hand_bytes += octets + _OVERHEAD * len(heads)
        return True

    def _on_sealed(self, sender: bytes, message: MessagesSealed) -> None:
        if sender != TUN:
            self._counters["frames.unexpected"] += 1
            return
        self._heard = self._runtime.loop.now()
        if message.life == 0:
            self._forget_in_hand()
        elif message.life == self._life:
            while self._in_hand and self._in_hand[0][0] <= message.number:
                self._in_hand_bytes -= self._in_hand.popleft()[1]
        self.flush()

    def _look(self) -> None:
        self._looking = False
        if self._in_hand and self._runtime.loop.now() - self._heard > SILENT_SECONDS:
            self._counters["tun.silent"] += 1
            self._forget_in_hand()
        self.flush()

    def _forget_in_hand(self) -> None:
        self._in_hand.clear()
        self._in_hand_bytes = 0
