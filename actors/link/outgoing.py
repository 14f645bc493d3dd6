"""From other processes to the peer: the outward half of the link actor (numbers: the packet path in `__init__.py`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from actors.link.transports.interface import Send, TransportError
from actors.runtime.actor import Runtime
from actors.runtime.exchange import Exchange, Lease, Packed
from protocol.frames import Direction, PacketsSeen
from protocol.ledger import Ledger, NoLedger
from protocol.mycelium.framing import DATA_HEADER, SOURCE_OFFSET
from protocol.queues import SendQueue

WRITE_BYTES: Final = 512 << 10


class Outgoing:
    """What waits for the socket, and its way into it."""

    def __init__(
        self,
        runtime: Runtime,
        exchange: Exchange,
        send: Send,
        ledger: Ledger | NoLedger,
        ended: Callable[[str], None],
        blocked: Callable[[], None],
    ) -> None:
        """`send` is the transport's; `ended(reason)` runs when the connection is over, `blocked` when `self.blocked`
        has changed."""
        self._runtime = runtime
        self._loop = runtime.loop
        self._exchange = exchange
        self._send = send
        self._ledger = ledger
        self._position = 0
        self._ended = ended
        self._queue = SendQueue()
        self._on_blocked = blocked
        self._flush_due = False
        self._counted = (0, 0, 0)
        self.blocked = False
        """Whether the socket takes no more, and has to be polled for writing."""
        self.closed = False
        self.octets = 0

    def begin(self, position: int, torn: bytes) -> None:
        """Begins at `position` of the stream, with `torn`, the rest of the packet in whose middle that is."""
        self._position = position
        if torn:
            self._queue.resume(torn)
            # At once: the ledger has to name our copy before the arena it came from is given up.
            self.flush()
        else:
            # Likewise: what a predecessor was about to write lies in memory that others will use again.
            self._ledger.end_batch(position)

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait for the socket."""
        return self._queue.pending_bytes

    def on_run(self, run: Packed) -> None:
        """Packets of the host or of another link."""
        memory, ends = run.memory, run.ends
        # The queue looks at the addresses of each packet of a run by itself; of one packet we know them as cheaply.
        pair = bytes(memory[SOURCE_OFFSET:DATA_HEADER]) if len(ends) == 1 else None
        self._queue.data(memory, ends, self._loop.now(), run.lease, pair, run.place)  # 6
        if self._runtime.watched(PacketsSeen):
            starts = (0, *run.ends[:-1])
            headers = b"".join(bytes(run.memory[start : start + DATA_HEADER]) for start in starts)
            self._runtime.publish(PacketsSeen(self._runtime.start.name, Direction.OUT, headers))
        self._flush_soon()

    def on_writable(self) -> None:
        """The socket takes more."""
        self.flush()

    def expire(self) -> None:
        """Gives back what waited too long for a socket that takes nothing: others have a use for its memory."""
        self._queue.expire(self._loop.now())
        self._give_back()

    def count_drops(self) -> None:
        """Adds what was dropped since the last call to the process's counters."""
        counters, queue = self._runtime.counters, self._queue
        now = (queue.dropped_age, queue.dropped_full, queue.dropped_control)
        for name, count, before in zip(("age", "full", "control_full"), now, self._counted, strict=True):
            if count > before:
                counters[f"dropped.{name}"] += count - before
        self._counted = now

    def control(self, packets: bytes) -> None:
        """Control packets of the router."""
        self._queue.control(packets)  # 6
        self._flush_soon()

    def close(self) -> None:
        """Gives back what will not be written any more."""
        self.closed = True
        self._queue.drop_all()
        self._give_back()

    def flush(self) -> None:
        """Writes until nothing waits or the socket takes no more."""
        self._flush_due = False
        if self.closed:
            return
        queue = self._queue
        while (offer := queue.offer(self._loop.now(), WRITE_BYTES)).buffers:
            self._ledger.begin_batch(self._position, offer.pieces, offer.own, offer.lead)
            try:
                count = self._send(offer.buffers)  # 7
            except BlockingIOError:
                self._block(True)
                break
            except OSError as error:
                self._ended(f"connection lost: {error.strerror}")
                return
            except TransportError as error:
                self._ended(str(error))
                return
            self._position += count
            self.octets += count
            queue.sent(count)
        else:
            self._block(False)
        self._give_back()

    def _give_back(self) -> None:
        released = self._queue.released()
        if not released:
            return
        if self._queue.between_packets:
            # What is dropped behind this point must not be looked at by a successor any more.
            self._ledger.end_batch(self._position)
        for lease in released:
            if isinstance(lease, Lease):
                self._exchange.give_back(lease)  # 8

    def _flush_soon(self) -> None:
        if not self._flush_due and not self.blocked:
            self._flush_due = True
            self._loop.defer(self.flush)

    def _block(self, blocked: bool) -> None:
        if blocked != self.blocked:
            self.blocked = blocked
            self._on_blocked()
