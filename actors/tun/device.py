"""Reading and writing a TUN device that was opened with IFF_VNET_HDR: ten bytes of virtio header before each packet."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Sequence
from typing import Final

from protocol.buffers import Buffer
from protocol.offload.vnet import HEADER_LENGTH

_PLAIN_HEADER: Final = bytes(HEADER_LENGTH)


class DeviceGone(Exception):
    """Somebody removed the device: the node can't serve its host any more."""


class Device:
    """A descriptor that other incarnations of this actor used before, and will use after us; -1 for none."""

    def __init__(self, descriptor: int, counters: Counter[str]) -> None:
        self._descriptor = descriptor
        self._counters = counters

    @property
    def descriptor(self) -> int:
        """What to poll, -1 for no device."""
        return self._descriptor

    def read(self, header: bytearray, packet: memoryview) -> int:
        """Reads one packet behind its virtio header; returns its length, or 0 where none waits.

        Raises `DeviceGone`.
        """
        try:
            return os.readv(self._descriptor, (header, packet)) - HEADER_LENGTH
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno == errno.EBADFD:
                raise DeviceGone("the TUN device was removed; start the node again") from error
            raise

    def write(self, packet: Buffer) -> None:
        """Gives one complete packet to the host."""
        self.write_pieces((_PLAIN_HEADER, packet))

    def write_pieces(self, pieces: Sequence[Buffer]) -> None:
        """Gives one packet to the host that lies in pieces, the first of them its virtio header.

        Raises `DeviceGone`. What the kernel refuses is counted.
        """
        if self._descriptor < 0:
            self._counters["dropped.no_device"] += 1
            return
        try:
            os.writev(self._descriptor, pieces)
        except OSError as error:
            if error.errno == errno.EBADFD:
                raise DeviceGone("the TUN device was removed; start the node again") from error
            # EIO: the interface is down; EINVAL: not a packet in the kernel's eyes; ENOBUFS, EAGAIN: it is full.
            self._counters[f"host.{errno.errorcode.get(error.errno or 0, 'error').lower()}"] += 1
