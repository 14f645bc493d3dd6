"""Packets of one round by their next step: what goes the same way leaves in one frame."""

from __future__ import annotations

from protocol.codec import Payload
from protocol.frames import pack_lengths


class Run:
    """Packets with the same next step, in order; neighbours in memory become one slice."""

    __slots__ = ("_slices", "lengths", "octets")

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.octets = 0
        self._slices: list[list[int]] = []

    def add(self, start: int, end: int) -> None:
        """The packet at these offsets belongs to the run."""
        self.lengths.append(end - start)
        self.octets += end - start
        slices = self._slices
        if slices and slices[-1][1] == start:
            slices[-1][1] = end
        else:
            slices.append([start, end])

    def packed_lengths(self) -> bytes:
        """The lengths as frames carry them."""
        return pack_lengths(self.lengths)

    def payload(self, memory: memoryview) -> Payload:
        """The packets in one piece; not copied where they lie in one piece already."""
        if len(self._slices) == 1:
            start, end = self._slices[0]
            return memory[start:end]
        return b"".join([memory[start:end] for start, end in self._slices])


class Runs(dict[int, Run]):
    """All runs of one round, by the number of their lane. Offsets point into memory that the caller keeps."""

    def add(self, lane: int, start: int, end: int) -> None:
        """The packet at these offsets goes to `lane`."""
        run = self.get(lane)
        if run is None:
            run = self[lane] = Run()
        run.add(start, end)
