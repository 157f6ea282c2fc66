"""The task that a handler gets."""

from __future__ import annotations

import json
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, Callable, NamedTuple, Optional, Union, overload

from . import _sql
from ._connections import AsyncConn, Conn, Rows, SyncConn, fetch, fetch_async, is_async
from .errors import ClaimLost


class Claim(NamedTuple):
    """Names a claim permanently: a later claim of the same task has a higher attempt."""

    id: int
    attempt: int


TASK_COLUMNS = "id, type, payload::text, attempts, queue, metadata::text, group_key"


class Task:
    """A claimed task.

    cancelled is set when the task is not this worker's any more: it was cancelled, its lease has ended, or the worker
    stops. A coroutine is cancelled at that time, too. What the handler returns from then on is dropped.
    """

    def __init__(
        self,
        id: int,
        type: str,
        payload: Any,
        attempt: int,
        queue: str,
        metadata: Any = None,
        group_key: Optional[str] = None,
    ) -> None:
        self.id = id
        self.type = type
        self.payload = payload
        self.attempt = attempt
        self.queue = queue
        self.metadata = metadata
        self.group_key = group_key
        self.cancelled = threading.Event()
        self.unreadable: Optional[Exception] = None  # why there is no payload
        self._completed = False
        self.on_progress: Callable[[float, Optional[str]], None] = lambda fraction, message: None

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Task:
        """From TASK_COLUMNS. JSON that Python cannot read, such as a number of 5000 digits, concerns this task only."""
        id, type, payload, attempt, queue, metadata, group_key = row
        task = cls(int(id), type, None, int(attempt), queue, None, group_key)
        try:
            task.payload = None if payload is None else json.loads(payload)
            task.metadata = None if metadata is None else json.loads(metadata)
        except (ValueError, RecursionError) as error:
            task.unreadable = error
        return task

    def __repr__(self) -> str:
        return f"<Task {self.id} {self.type!r}, attempt {self.attempt}>"

    @property
    def claim(self) -> Claim:
        return Claim(self.id, self.attempt)

    @property
    def completed(self) -> bool:
        """Whether the handler has called complete()."""
        return self._completed

    @overload
    def complete(self, conn: AsyncConn, result: Any = None) -> Coroutine[Any, Any, None]: ...

    @overload
    def complete(self, conn: SyncConn, result: Any = None) -> None: ...

    def complete(self, conn: Conn, result: Any = None) -> Union[None, Coroutine[Any, Any, None]]:
        """Completes the task in the handler's own transaction: its writes and the end of the task are one commit.

        The worker then reports nothing. Raises ClaimLost if the task is not this worker's any more: let that error roll
        the transaction back.
        """
        arguments = {"id": _sql.bigint(self.id), "attempt": _sql.integer(self.attempt)}
        if result is not None:
            arguments["result"] = _sql.jsonb(result)
        statement = _sql.call("complete", **arguments)
        if is_async(conn):
            return self._complete_async(conn, statement)
        # set before the row is locked: the worker would wait for that lock to extend the lease
        self._completed = True
        try:
            self._accepted(fetch(conn, statement))
        except BaseException:
            self._completed = False
            raise
        return None

    async def _complete_async(self, conn: Any, statement: _sql.Statement) -> None:
        self._completed = True
        try:
            self._accepted(await fetch_async(conn, statement))
        except BaseException:
            self._completed = False
            raise

    def _accepted(self, rows: Rows) -> None:
        if not rows[0][0]:
            raise ClaimLost(f"task {self.id}, attempt {self.attempt}, is not ours any more")

    def progress(self, fraction: float, message: Optional[str] = None) -> None:
        """Reports how much of the work is done, 0 to 1. Returns at once: the worker sends the latest report."""
        if not 0 <= fraction <= 1:
            raise ValueError("the progress is a number from 0 to 1")
        self.on_progress(fraction, message)
