"""Messages that programs are just handing over to be sent, in parts, until they are whole."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Final, TypeAlias

from actors.messagebox.bodies import LARGE_BYTES, Bodies
from actors.messagebox.disk import Disk
from actors.runtime.actor import Runtime
from protocol.codec import Payload
from protocol.frames import PushMessage, PushPart

MOST_UPLOADS: Final = 256
MOST_BYTES: Final = 384 << 20
"""Announced by all of them."""
GIVE_UP_SECONDS: Final = 60.0
"""Without another part."""

Asker = tuple[bytes, int]
OnWhole: TypeAlias = Callable[[Asker, PushMessage, bytes, str | None], None]


class UploadRefused(Exception):
    """A message that can't be taken in; says why."""


class _Upload:
    __slots__ = ("file", "moved", "octets", "parts", "push", "whole")

    def __init__(self, push: PushMessage, file: str | None, now: float) -> None:
        self.push = push
        self.file = file
        self.parts: list[bytes] = []
        self.octets = 0
        self.moved = now
        self.whole = False
        """The disk is being given what it has not yet."""


class Uploads:
    """All of them, by who hands them over. A large one goes straight into its file, where it will stay."""

    def __init__(self, runtime: Runtime, bodies: Bodies, disk: Disk, on_whole: OnWhole) -> None:
        """`on_whole(asker, push, data, file)`: a message is there; what is in a file is on disk."""
        self._loop = runtime.loop
        self._counters: Counter[str] = runtime.counters
        self._bodies = bodies
        self._disk = disk
        self._on_whole = on_whole
        self._uploads: dict[Asker, _Upload] = {}
        self._bytes = 0
        runtime.gauges.queue("uploads", lambda: len(self._uploads))
        runtime.gauges.queue("upload_bytes", lambda: self._bytes)

    def begin(self, asker: Asker, push: PushMessage) -> int | None:
        """The first part of a message: how many bytes there are, None where it is whole.

        Raises `UploadRefused` where there is no room.
        """
        self.stop(asker)
        self._expire()
        if len(self._uploads) >= MOST_UPLOADS or self._bytes + push.length > MOST_BYTES:
            self._counters["uploads.refused"] += 1
            raise UploadRefused(
                f"{len(self._uploads)} messages of {self._bytes} bytes are being handed over; try again later"
            )
        try:
            file = self._bodies.new() if push.length >= LARGE_BYTES else None
        except OSError as error:
            raise self._no_file(error) from None
        self._uploads[asker] = _Upload(push, file, self._loop.now())
        self._bytes += push.length
        return self._add(asker, push.data)

    def go_on(self, asker: Asker, part: PushPart) -> int | None:
        """Another part: as `begin`. Raises `UploadRefused` for a part that doesn't fit as well."""
        upload = self._uploads.get(asker)
        if upload is None:
            raise UploadRefused("nothing is known of the first part of this message; begin again")
        if part.offset != upload.octets or upload.octets + len(part.data) > upload.push.length:
            self.stop(asker)
            raise UploadRefused(f"{len(part.data)} bytes at {part.offset} where {upload.octets} are there")
        return self._add(asker, part.data)

    def stop(self, asker: Asker) -> bool:
        """Forgets a message that was not handed on; whether there was one."""
        upload = self._uploads.pop(asker, None)
        if upload is None:
            return False
        self._bytes -= upload.push.length
        if upload.file is not None:
            self._bodies.remove(upload.file)
        return True

    def _add(self, asker: Asker, data: Payload) -> int | None:
        upload = self._uploads[asker]
        upload.parts.append(bytes(data))
        if upload.file is not None:
            try:
                if self._bodies.write(upload.file, upload.octets, upload.parts[-1]):
                    sync_soon(self._disk, self._bodies, upload.file)
            except OSError as error:
                self.stop(asker)
                raise self._no_file(error) from None
        upload.octets += len(data)
        upload.moved = self._loop.now()
        if upload.octets < upload.push.length:
            return upload.octets
        upload.whole = True
        if upload.file is None:
            self._hand_on(asker, upload)
        else:
            sync_soon(self._disk, self._bodies, upload.file, lambda: self._hand_on(asker, upload))
        return None

    def _hand_on(self, asker: Asker, upload: _Upload) -> None:
        if self._uploads.get(asker) is not upload:
            # He did not want it any more while the disk was waited for.
            return
        del self._uploads[asker]
        self._bytes -= upload.push.length
        self._on_whole(asker, upload.push, b"".join(upload.parts), upload.file)

    def _no_file(self, error: OSError) -> UploadRefused:
        self._counters["uploads.refused"] += 1
        return UploadRefused(f"its data can't be written: {error.strerror}; make room on the disk, and try again")

    def _expire(self) -> None:
        long_ago = self._loop.now() - GIVE_UP_SECONDS
        waiting = [(asker, upload) for asker, upload in self._uploads.items() if not upload.whole]
        for asker in [asker for asker, upload in waiting if upload.moved < long_ago]:
            self._counters["uploads.given_up"] += 1
            self.stop(asker)


def sync_soon(disk: Disk, bodies: Bodies, name: str, then: Callable[[], None] = lambda: None) -> None:
    """Has a file synced, and its name; calls `then` when it is."""
    descriptors = bodies.to_sync(name)

    def synced() -> None:
        for descriptor in descriptors:
            os.close(descriptor)
        then()

    disk.keep(descriptors, synced)
