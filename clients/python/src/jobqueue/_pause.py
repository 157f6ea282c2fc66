"""How long to wait before the next attempt to connect."""

from __future__ import annotations

import random

_FIRST = 0.25
_LONGEST = 10.0


class GrowingDelay:
    """Seconds that double up to a ceiling, a little at random, so that many workers do not come at once."""

    def __init__(self) -> None:
        self._next = _FIRST

    def next(self) -> float:
        delay = self._next
        self._next = min(2 * delay, _LONGEST)
        return delay * random.uniform(0.8, 1.2)

    def reset(self) -> None:
        self._next = _FIRST
