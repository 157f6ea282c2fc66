"""What a handler raises to say how its attempt ends, and what it may meet."""

from __future__ import annotations

from datetime import timedelta
from typing import Optional, Union


class Discard(Exception):
    """The task is given up: it fails, even if it has attempts left."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Snooze(Exception):
    """The task runs again after the delay. That costs no attempt."""

    def __init__(self, delay: timedelta) -> None:
        super().__init__(delay)
        self.delay = _not_negative(delay)


class RetryIn(Exception):
    """The attempt has failed, and the next one is made after the delay, if the task has an attempt left."""

    def __init__(self, delay: timedelta, error: Union[str, BaseException, None] = None) -> None:
        super().__init__(delay, error)
        self.delay = _not_negative(delay)
        self.error = error


class ClaimLost(Exception):
    """The task is not this worker's any more: it was cancelled, or its lease has ended. Roll back."""


def _not_negative(delay: timedelta) -> timedelta:
    if delay < timedelta(0):
        raise ValueError("a delay is not negative")
    return delay


def sqlstate_of(error: BaseException) -> Optional[str]:
    """The SQLSTATE of an error of the server, also where SQLAlchemy or Django have wrapped it."""
    for candidate in (error, getattr(error, "orig", None), error.__cause__):
        sqlstate = getattr(candidate, "sqlstate", None)
        if isinstance(sqlstate, str):
            return sqlstate
    return None
