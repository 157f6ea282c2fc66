"""C23: the helpers for tests of an application."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from support import CLIENT, row

from jobqueue import App, Discard, RetryIn, Snooze, Task, enqueue
from jobqueue.testing import drain, run_tasks

Conn = psycopg.Connection[Any]


def test_C23_a_rollback_undoes_all_of_it(conn: Conn, admin: Conn, queue: str) -> None:
    app = App()

    @app.handler("first")
    def first(task: Task) -> str:
        conn.execute("INSERT INTO effects VALUES (%s)", [task.payload])
        enqueue(conn, "second", task.payload + 1, queue=queue)
        return "done"

    @app.handler("second")
    async def second(task: Task) -> None:
        conn.execute("INSERT INTO effects VALUES (%s)", [task.payload])

    id = enqueue(conn, "first", 1, queue=queue)
    other = enqueue(conn, "third", queue=queue)
    ran = run_tasks(conn, app, queue)
    assert [(task.type, task.payload, task.attempt) for task in ran] == [("first", 1, 1), ("second", 2, 1)]
    assert row(conn, "status, result", id) == ("completed", "done")
    assert row(conn, "status", other) == ("pending",)
    assert conn.execute("SELECT n FROM effects ORDER BY n").fetchall() == [(1,), (2,)]
    conn.rollback()
    assert not admin.execute("SELECT FROM effects").fetchall()
    assert not admin.execute("SELECT FROM jobqueue.tasks WHERE queue = %s", [queue]).fetchall()


def test_C23_a_handlers_error_is_raised(conn: Conn, queue: str) -> None:
    app = App()

    @app.handler("bad")
    def bad(task: Task) -> None:
        raise LookupError("not there")

    @app.handler("no json")
    def no_json(task: Task) -> object:
        return object()

    enqueue(conn, "bad", queue=queue)
    with pytest.raises(LookupError, match="not there"):
        run_tasks(conn, app, queue)
    enqueue(conn, "no json", queue=queue)
    with pytest.raises(TypeError, match="not JSON"):
        run_tasks(conn, app, queue)


def test_C23_what_a_handler_says_about_its_task(conn: Conn, queue: str) -> None:
    app = App()
    says: dict[str, Exception] = {
        "discard": Discard("no use"),
        "snooze": Snooze(timedelta(hours=1)),
        "retry": RetryIn(timedelta(hours=2), "busy"),
    }

    @app.handler("say")
    def say(task: Task) -> None:
        raise says[task.payload]

    @app.handler("complete")
    def complete(task: Task) -> str:
        task.progress(0.5)
        task.complete(conn, {"by": "hand"})
        return "not this"

    ids = {what: enqueue(conn, "say", what, queue=queue) for what in says}
    by_hand = enqueue(conn, "complete", queue=queue)
    assert len(run_tasks(conn, app, queue, max_tasks=2)) == 2
    assert len(run_tasks(conn, app, queue)) == 2
    assert row(conn, "status, last_error", ids["discard"]) == ("failed", "no use")
    assert row(conn, "status, last_error, run_at > now() + '50 min'", ids["snooze"]) == ("scheduled", None, True)
    assert row(conn, "status, last_error, run_at > now() + '110 min'", ids["retry"]) == ("scheduled", "busy", True)
    assert row(conn, "status, result", by_hand) == ("completed", {"by": "hand"})


def test_C23_async(queue: str, admin: Conn) -> None:
    async def work() -> None:
        app = App()
        async with await psycopg.AsyncConnection.connect(CLIENT) as conn:

            @app.handler("insert")
            async def insert(task: Task) -> None:
                await conn.execute("INSERT INTO effects VALUES (%s)", [task.payload])
                await task.complete(conn)

            @app.handler("plain")
            def plain(task: Task) -> None:
                raise LookupError("plain")

            await enqueue(conn, "insert", 1, queue=queue)
            assert len(await run_tasks(conn, app, queue)) == 1
            await enqueue(conn, "plain", queue=queue)
            with pytest.raises(LookupError):
                await run_tasks(conn, app, queue)
            await conn.rollback()

    asyncio.run(work())
    assert not admin.execute("SELECT FROM effects").fetchall()


def test_C23_drain(conn: Conn, admin: Conn, queue: str) -> None:
    with psycopg.connect() as owner:
        owner.execute("CREATE FUNCTION double(payload jsonb) RETURNS int LANGUAGE sql AS 'SELECT 84 / payload::int'")
        owner.execute("SELECT jobqueue.register_handler('double', 'double(jsonb)')")
        enqueue(owner, "double", 2, queue=queue)
        enqueue(owner, "double", 4, queue=queue, delay=timedelta(hours=1))
        assert [(o.status, o.result) for o in drain(owner, queue)] == [("completed", 42)]
        assert [o.result for o in drain(owner, queue, include_scheduled=True, max_tasks=1)] == [21]
        enqueue(owner, "double", 0, queue=queue)
        (failed,) = drain(owner, queue)
        assert (failed.status, failed.last_sqlstate) == ("scheduled", "22012")
        enqueue(owner, "double", 0, queue=queue)
        with pytest.raises(psycopg.errors.DivisionByZero):
            drain(owner, queue, raise_errors=True)
        owner.rollback()
    assert not admin.execute("SELECT FROM jobqueue.tasks WHERE queue = %s", [queue]).fetchall()

    async def work() -> None:
        async with await psycopg.AsyncConnection.connect(CLIENT) as conn:
            assert await drain(conn, queue) == []

    asyncio.run(work())
