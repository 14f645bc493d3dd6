"""So many in a second and no more: what strangers may make a process ask or say on their behalf."""

from __future__ import annotations


class Budget:
    """A number of acts that is full again each time `next_second` is called."""

    __slots__ = ("_left", "_per_second")

    def __init__(self, per_second: int) -> None:
        self._left = self._per_second = per_second

    @property
    def empty(self) -> bool:
        """Whether none is left."""
        return not self._left

    def take(self) -> bool:
        """Takes one; False where none is left."""
        if self.empty:
            return False
        self._left -= 1
        return True

    def next_second(self) -> None:
        """A new second has begun."""
        self._left = self._per_second
