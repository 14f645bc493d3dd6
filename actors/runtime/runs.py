"""Packets of one round by their next step: what goes the same way leaves in one frame."""

from __future__ import annotations

from protocol.codec import Payload


class Run:
    """Packets with the same next step, in order; neighbours in memory become one slice."""

    __slots__ = ("_reached", "octets", "packets", "slices")

    def __init__(self) -> None:
        self.packets = 0
        self.octets = 0
        self.slices: list[tuple[int, list[int]]] = []
        """Where each slice begins, and where its packets end, counted from there."""
        self._reached = -1

    def add(self, start: int, end: int) -> None:
        """The packet at these offsets belongs to the run."""
        self.packets += 1
        self.octets += end - start
        if start == self._reached:
            first, ends = self.slices[-1]
            ends.append(end - first)
        else:
            self.slices.append((start, [end - start]))
        self._reached = end

    def add_row(self, start: int, ends: list[int]) -> None:
        """Packets one behind the other from `start` on, which end at `ends` from there, belong to the run."""
        self.packets += len(ends)
        self.octets += ends[-1]
        if start == self._reached:
            first, before = self.slices[-1]
            before += [start - first + end for end in ends]
        else:
            self.slices.append((start, ends))
        self._reached = start + ends[-1]

    def lengths(self) -> list[int]:
        """The length of each packet."""
        found = []
        for _, ends in self.slices:
            before = 0
            for end in ends:
                found.append(end - before)
                before = end
        return found

    def payload(self, memory: memoryview) -> Payload:
        """The packets in one piece; not copied where they lie in one piece already."""
        pieces = [memory[start : start + ends[-1]] for start, ends in self.slices]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Runs(dict[int, Run]):
    """All runs of one round, by the number of their lane. Offsets point into memory that the caller keeps."""

    def add(self, lane: int, start: int, end: int) -> None:
        """The packet at these offsets goes to `lane`."""
        run = self.get(lane)
        if run is None:
            run = self[lane] = Run()
        run.add(start, end)

    def add_row(self, lane: int, start: int, ends: list[int]) -> None:
        """Packets one behind the other from `start` on, which end at `ends` from there, go to `lane`."""
        run = self.get(lane)
        if run is None:
            run = self[lane] = Run()
        run.add_row(start, ends)
