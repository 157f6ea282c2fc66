"""enqueue, enqueue_many, enqueue_unique, wait_for: one call of the SQL function each, on the caller's connection."""

from __future__ import annotations

import json
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Callable, Literal, NamedTuple, Optional, TypedDict, Union, overload

from typing_extensions import Unpack

from . import _sql
from ._connections import AsyncConn, Conn, Rows, SyncConn, run


class EnqueueManyOptions(TypedDict, total=False):
    """The arguments of jobqueue.enqueue_many. What is left out, or None, is the server's default."""

    queue: Optional[str]
    priority: Optional[int]
    run_at: Optional[datetime]
    delay: Optional[timedelta]
    max_attempts: Optional[int]
    timeout: Optional[timedelta]
    group_key: Optional[str]
    after: Optional[Sequence[int]]
    on_parent_failure: Optional[Literal["cancel", "run", "wait"]]
    metadata: Optional[Any]


class EnqueueOptions(EnqueueManyOptions, total=False):
    """The arguments of jobqueue.enqueue."""

    unique_key: Optional[str]
    on_conflict: Optional[Literal["keep", "replace", "error"]]
    unique_scope: Optional[Literal["live", "waiting"]]


class EnqueueUniqueOptions(EnqueueOptions, total=False):
    """The arguments of jobqueue.enqueue_unique."""

    unique_for: Optional[timedelta]


class Enqueued(NamedTuple):
    id: int
    is_new: bool


@dataclass(frozen=True)
class Outcome:
    """A task as it is in jobqueue.tasks."""

    id: int
    type: str
    status: str
    attempts: int
    result: Any
    last_error: Optional[str]
    last_sqlstate: Optional[str]


OUTCOME_COLUMNS = "id, type, status, attempts, result::text, last_error, last_sqlstate"

# the payload None is JSON's null: it is not a payload that was left out
_LEFT_OUT: Any = object()

_Encoders = Mapping[str, Callable[[Any], _sql.Argument]]
_MANY: _Encoders = {
    "queue": _sql.text,
    "priority": _sql.integer,
    "run_at": _sql.timestamptz,
    "delay": _sql.interval,
    "max_attempts": _sql.integer,
    "timeout": _sql.interval,
    "group_key": _sql.text,
    "after": _sql.bigint_array,
    "on_parent_failure": _sql.text,
    "metadata": _sql.jsonb,
}
_ONE: _Encoders = {**_MANY, "unique_key": _sql.text, "on_conflict": _sql.text, "unique_scope": _sql.text}
_UNIQUE: _Encoders = {**_ONE, "unique_for": _sql.interval}


@overload
def enqueue(
    conn: AsyncConn, type: str, payload: Any = ..., **options: Unpack[EnqueueOptions]
) -> Coroutine[Any, Any, int]: ...


@overload
def enqueue(conn: SyncConn, type: str, payload: Any = ..., **options: Unpack[EnqueueOptions]) -> int: ...


def enqueue(
    conn: Conn, type: str, payload: Any = _LEFT_OUT, **options: Unpack[EnqueueOptions]
) -> Union[int, Coroutine[Any, Any, int]]:
    """Adds a task in the transaction of conn, and returns its id."""
    arguments = {"type": _sql.text(type), **_payload(payload), **_arguments(_ONE, options)}
    return run(conn, _sql.call("enqueue", **arguments), _one_id)


@overload
def enqueue_many(
    conn: AsyncConn, type: str, payloads: Iterable[Any], **options: Unpack[EnqueueManyOptions]
) -> Coroutine[Any, Any, list[int]]: ...


@overload
def enqueue_many(
    conn: SyncConn, type: str, payloads: Iterable[Any], **options: Unpack[EnqueueManyOptions]
) -> list[int]: ...


def enqueue_many(
    conn: Conn, type: str, payloads: Iterable[Any], **options: Unpack[EnqueueManyOptions]
) -> Union[list[int], Coroutine[Any, Any, list[int]]]:
    """Adds a task for each payload in the transaction of conn, and returns the ids in the order of the payloads."""
    payload_array = _sql.json_array(map(_sql.to_json, payloads))
    arguments = {"type": _sql.text(type), "payloads": payload_array, **_arguments(_MANY, options)}
    return run(conn, _sql.call("enqueue_many", **arguments), _ids)


@overload
def enqueue_unique(
    conn: AsyncConn, type: str, payload: Any = ..., **options: Unpack[EnqueueUniqueOptions]
) -> Coroutine[Any, Any, Enqueued]: ...


@overload
def enqueue_unique(
    conn: SyncConn, type: str, payload: Any = ..., **options: Unpack[EnqueueUniqueOptions]
) -> Enqueued: ...


def enqueue_unique(
    conn: Conn, type: str, payload: Any = _LEFT_OUT, **options: Unpack[EnqueueUniqueOptions]
) -> Union[Enqueued, Coroutine[Any, Any, Enqueued]]:
    """As enqueue with a unique_key; also returns whether the task is new."""
    arguments = {"type": _sql.text(type), **_payload(payload), **_arguments(_UNIQUE, options)}
    return run(conn, _sql.call("enqueue_unique", **arguments), _enqueued)


@overload
def wait_for(
    conn: AsyncConn, id: int, timeout: Optional[timedelta] = None
) -> Coroutine[Any, Any, Optional[Outcome]]: ...


@overload
def wait_for(conn: SyncConn, id: int, timeout: Optional[timedelta] = None) -> Optional[Outcome]: ...


def wait_for(
    conn: Conn, id: int, timeout: Optional[timedelta] = None
) -> Union[Optional[Outcome], Coroutine[Any, Any, Optional[Outcome]]]:
    """Waits until the task has ended. Returns how, or None when the time is over."""
    wait = "{}, {}" if timeout is not None else "{}"
    arguments = [_sql.bigint(id)] + ([_sql.interval(timeout)] if timeout is not None else [])
    return run(
        conn,
        _sql.Statement(f"SELECT {OUTCOME_COLUMNS} FROM jobqueue.wait_for({wait})", *arguments),
        lambda rows: outcome(rows[0]) if rows and rows[0][0] is not None else None,
    )


def outcome(row: Sequence[Any]) -> Outcome:
    """From OUTCOME_COLUMNS."""
    id, type, status, attempts, result, last_error, last_sqlstate = row
    return Outcome(
        id, type, status, attempts, None if result is None else json.loads(result), last_error, last_sqlstate
    )


def _payload(payload: Any) -> dict[str, _sql.Argument]:
    return {} if payload is _LEFT_OUT else {"payload": _sql.jsonb(payload)}


def _arguments(known: _Encoders, options: Mapping[str, Any]) -> dict[str, _sql.Argument]:
    for name in options:
        if name not in known:
            raise TypeError(f"unknown option {name!r}: there are {', '.join(known)}")
    return {name: known[name](value) for name, value in options.items() if value is not None}


def _one_id(rows: Rows) -> int:
    return int(rows[0][0])


def _ids(rows: Rows) -> list[int]:
    return [int(row[0]) for row in rows]


def _enqueued(rows: Rows) -> Enqueued:
    return Enqueued(int(rows[0][0]), bool(rows[0][1]))
