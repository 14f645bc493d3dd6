"""Messages that programs are just handing over to be sent, in parts, until they are whole."""

from __future__ import annotations

from collections import Counter
from typing import Final

from actors.runtime.actor import Runtime
from protocol.frames import PushMessage, PushPart

MOST_UPLOADS: Final = 256
MOST_BYTES: Final = 384 << 20
"""Announced by all of them."""
GIVE_UP_SECONDS: Final = 60.0
"""Without another part."""

Asker = tuple[bytes, int]


class UploadRefused(Exception):
    """A message that can't be taken in; says why."""


class _Upload:
    __slots__ = ("moved", "octets", "parts", "push")

    def __init__(self, push: PushMessage, now: float) -> None:
        self.push = push
        self.parts = [bytes(push.data)]
        self.octets = len(push.data)
        self.moved = now


class Uploads:
    """All of them, by who hands them over."""

    def __init__(self, runtime: Runtime) -> None:
        self._loop = runtime.loop
        self._counters: Counter[str] = runtime.counters
        self._uploads: dict[Asker, _Upload] = {}
        self._bytes = 0
        runtime.gauges.queue("uploads", lambda: len(self._uploads))
        runtime.gauges.queue("upload_bytes", lambda: self._bytes)

    def begin(self, asker: Asker, push: PushMessage) -> None:
        """The first part of a message that has more. Raises `UploadRefused` where there is no room."""
        self.stop(asker)
        self._expire()
        if len(self._uploads) >= MOST_UPLOADS or self._bytes + push.length > MOST_BYTES:
            self._counters["uploads.refused"] += 1
            raise UploadRefused(
                f"{len(self._uploads)} messages of {self._bytes} bytes are being handed over; try again later"
            )
        self._uploads[asker] = _Upload(push, self._loop.now())
        self._bytes += push.length

    def go_on(self, asker: Asker, part: PushPart) -> tuple[PushMessage, bytes] | int:
        """Another part: the whole message and its first frame, or how many bytes there are.

        Raises `UploadRefused` for a part that doesn't fit.
        """
        upload = self._uploads.get(asker)
        if upload is None:
            raise UploadRefused("nothing is known of the first part of this message; begin again")
        if part.offset != upload.octets or upload.octets + len(part.data) > upload.push.length:
            self.stop(asker)
            raise UploadRefused(f"{len(part.data)} bytes at {part.offset} where {upload.octets} are there")
        upload.parts.append(bytes(part.data))
        upload.octets += len(part.data)
        upload.moved = self._loop.now()
        if upload.octets < upload.push.length:
            return upload.octets
        self.stop(asker)
        return upload.push, b"".join(upload.parts)

    def stop(self, asker: Asker) -> bool:
        """Forgets a message that is not whole; whether there was one."""
        upload = self._uploads.pop(asker, None)
        if upload is None:
            return False
        self._bytes -= upload.push.length
        return True

    def _expire(self) -> None:
        long_ago = self._loop.now() - GIVE_UP_SECONDS
        for asker in [asker for asker, upload in self._uploads.items() if upload.moved < long_ago]:
            self._counters["uploads.given_up"] += 1
            self.stop(asker)
