"""Runs a statement on what the caller has: a connection of psycopg, SQLAlchemy or Django.

SQLAlchemy and Django are recognized without an import, so that neither has to be installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Coroutine, Sequence
from typing import Any, Callable, Protocol, TypeVar, Union

import psycopg
from psycopg.rows import tuple_row

from ._sql import Statement

Rows = Sequence[Sequence[Any]]
T = TypeVar("T")


class _Fetched(Protocol):
    def fetchall(self) -> Sequence[Any]: ...


class SQLAlchemyConnection(Protocol):
    """sqlalchemy.Connection"""

    def exec_driver_sql(self, statement: str) -> _Fetched: ...


class SQLAlchemySession(Protocol):
    """sqlalchemy.orm.Session, scoped_session"""

    def connection(self) -> SQLAlchemyConnection: ...


class SQLAlchemyAsync(Protocol):
    """sqlalchemy.ext.asyncio.AsyncConnection, AsyncSession"""

    async def run_sync(self, fn: Callable[..., Any]) -> Any: ...


class DjangoConnection(Protocol):
    """django.db.connection"""

    in_atomic_block: bool

    def cursor(self) -> Any: ...


SyncConn = Union[
    "psycopg.Connection[Any]", "psycopg.Cursor[Any]", SQLAlchemyConnection, SQLAlchemySession, DjangoConnection
]
AsyncConn = Union["psycopg.AsyncConnection[Any]", "psycopg.AsyncCursor[Any]", SQLAlchemyAsync]
Conn = Union[SyncConn, AsyncConn]


def run(conn: Conn, statement: Statement, convert: Callable[[Rows], T]) -> Union[T, Coroutine[Any, Any, T]]:
    """Runs the statement in the transaction of conn; what convert makes of the rows, or a coroutine that returns it."""
    if is_async(conn):
        return _run_async(conn, statement, convert)
    return convert(fetch(conn, statement))


async def _run_async(conn: Conn, statement: Statement, convert: Callable[[Rows], T]) -> T:
    return convert(await fetch_async(conn, statement))


def is_async(conn: Conn) -> bool:
    if isinstance(conn, (psycopg.AsyncConnection, psycopg.AsyncCursor)):
        return True
    return _is_sqlalchemy(conn) and inspect.iscoroutinefunction(getattr(type(conn), "execute", None))


def fetch(conn: Any, statement: Statement) -> Rows:
    if isinstance(conn, (psycopg.Connection, psycopg.Cursor)):
        owner = conn.connection if isinstance(conn, psycopg.Cursor) else conn
        # a cursor of our own: the caller's may have other placeholders, other rows, and results still to be read
        with psycopg.Cursor(owner, row_factory=tuple_row) as cursor:
            return cursor.execute(_percent(statement), statement.values).fetchall()
    if _is_sqlalchemy(conn):
        if hasattr(conn, "flush"):
            conn = conn.connection()
        return conn.execute(*_sqlalchemy(statement)).fetchall()  # type: ignore[no-any-return]
    if hasattr(conn, "in_atomic_block"):
        with conn.cursor() as cursor:
            cursor.execute(_percent(statement), statement.values)
            return cursor.fetchall()  # type: ignore[no-any-return]
    kind = type(conn)
    raise TypeError(f"not a connection, cursor or session that jobqueue knows: {kind.__module__}.{kind.__qualname__}")


async def fetch_async(conn: Any, statement: Statement) -> Rows:
    if isinstance(conn, (psycopg.AsyncConnection, psycopg.AsyncCursor)):
        owner = conn.connection if isinstance(conn, psycopg.AsyncCursor) else conn
        async with psycopg.AsyncCursor(owner, row_factory=tuple_row) as cursor:
            return await (await cursor.execute(_percent(statement), statement.values)).fetchall()
    return (await conn.execute(*_sqlalchemy(statement))).fetchall()  # type: ignore[no-any-return]


def _percent(statement: Statement) -> Any:  # psycopg wants a LiteralString
    return statement.render(lambda n: "%s")


def _sqlalchemy(statement: Statement) -> tuple[Any, dict[str, Any]]:
    from sqlalchemy import text

    values = {f"value_{n}": value for n, value in enumerate(statement.values)}
    return text(statement.render(lambda n: f":value_{n}")), values


def _is_sqlalchemy(conn: object) -> bool:
    return any(base.__module__.startswith("sqlalchemy.") for base in type(conn).__mro__)
