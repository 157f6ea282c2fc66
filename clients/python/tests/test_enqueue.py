"""C1 to C5, and C7: enqueue on a connection of psycopg."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from support import CLIENT, row

from jobqueue import enqueue, enqueue_many, enqueue_unique, wait_for

Conn = psycopg.Connection[Any]

PAYLOADS: list[Any] = [
    {},
    {"a": [1, {"b": None}], "quote": "\"'\\{}%s"},
    [],
    [1, "two", None, [3], {"four": 4}],
    ["a", "b"],
    "text",
    "",
    "null",
    "Zażółć 日本語 🐘 \\ \" '",
    0,
    -17,
    2**53 + 1,
    10**30,
    1.5,
    True,
    False,
    None,
]


def test_C1_rollback_and_commit(conn: Conn, admin: Conn) -> None:
    lost = enqueue(conn, "mail", {"n": 1})
    conn.rollback()
    kept = enqueue(conn, "mail", {"n": 2})
    assert not admin.execute("SELECT FROM jobqueue.tasks WHERE id = %s", [kept]).fetchall()
    conn.commit()
    assert row(admin, "payload", kept) == ({"n": 2},)
    assert not admin.execute("SELECT FROM jobqueue.tasks WHERE id = %s", [lost]).fetchall()


def test_C1_rollback_and_commit_async(admin: Conn) -> None:
    async def work() -> tuple[int, int]:
        async with await psycopg.AsyncConnection.connect(CLIENT) as conn:
            lost = await enqueue(conn, "mail", {"n": 1})
            await conn.rollback()
            kept = await enqueue(conn.cursor(), "mail", {"n": 2})
            await conn.commit()
        return lost, kept

    lost, kept = asyncio.run(work())
    assert row(admin, "payload", kept) == ({"n": 2},)
    assert not admin.execute("SELECT FROM jobqueue.tasks WHERE id = %s", [lost]).fetchall()


def test_C1_cursor_keeps_its_own_results(conn: Conn) -> None:
    cursor = conn.cursor(row_factory=dict_row)
    cursor.execute("SELECT 1 AS one")
    id = enqueue(cursor, "mail")
    assert isinstance(id, int)
    assert cursor.fetchall() == [{"one": 1}]


def test_C1_raw_cursors_are_no_obstacle(conn: Conn) -> None:
    conn.cursor_factory = psycopg.RawCursor
    assert isinstance(enqueue(conn, "mail"), int)


def test_C1_large_ids_are_exact(conn: Conn, admin: Conn) -> None:
    (before,) = admin.execute("SELECT last_value FROM jobqueue.tasks_id_seq").fetchone() or (0,)
    large = 2**53 + 1
    admin.execute("SELECT setval('jobqueue.tasks_id_seq', %s, false)", [large])
    try:
        assert enqueue(conn, "mail") == large
        assert enqueue_many(conn, "mail", [1]) == [large + 1]
        assert enqueue_unique(conn, "mail", unique_key="large").id == large + 2
    finally:
        conn.rollback()
        admin.execute("SELECT setval('jobqueue.tasks_id_seq', %s)", [before])


def test_C2_every_option(conn: Conn, admin: Conn, queue: str) -> None:
    parent = enqueue(conn, "mail", queue=queue)
    soon = datetime.now(timezone.utc) + timedelta(days=1)
    id = enqueue(
        conn,
        "mail",
        {"n": 1},
        queue=queue,
        priority=-5,
        run_at=soon,
        max_attempts=3,
        timeout=timedelta(minutes=1, milliseconds=500),
        unique_key="key",
        on_conflict="error",
        group_key="group",
        after=[parent],
        on_parent_failure="run",
        metadata={"trace": ["x"]},
        unique_scope="waiting",
    )
    columns = "queue, priority, run_at, max_attempts, timeout, unique_key, group_key, status, metadata, unique_scope"
    assert row(conn, columns, id) == (
        queue,
        -5,
        soon,
        3,
        timedelta(minutes=1, milliseconds=500),
        "key",
        "group",
        "blocked",
        {"trace": ["x"]},
        "waiting",
    )
    with pytest.raises(psycopg.errors.UniqueViolation), conn.transaction():
        enqueue(conn, "mail", unique_key="key", on_conflict="error")
    assert enqueue(conn, "mail", {"n": 2}, unique_key="key", on_conflict="replace") == id
    assert row(conn, "payload", id) == ({"n": 2},)
    later = enqueue(conn, "mail", delay=timedelta(hours=36))
    (due,) = conn.execute("SELECT run_at - now() FROM jobqueue.tasks WHERE id = %s", [later]).fetchone() or (None,)
    assert due is not None and abs(due - timedelta(hours=36)) < timedelta(minutes=5)


def test_C2_the_options_are_those_of_the_server(admin: Conn) -> None:
    from jobqueue._enqueue import EnqueueManyOptions, EnqueueOptions, EnqueueUniqueOptions

    for function, options in [
        ("enqueue", EnqueueOptions),
        ("enqueue_many", EnqueueManyOptions),
        ("enqueue_unique", EnqueueUniqueOptions),
    ]:
        arguments = admin.execute(
            "SELECT a.name FROM pg_proc p, unnest(p.proargnames, p.proargmodes) AS a(name, mode)"
            " WHERE p.pronamespace = 'jobqueue'::regnamespace AND p.proname = %s AND coalesce(a.mode, 'i') = 'i'",
            [function],
        ).fetchall()
        assert {name for (name,) in arguments} - {"type", "payload", "payloads"} == set(options.__annotations__)


def test_C2_left_out_is_the_default_of_the_server(conn: Conn) -> None:
    columns = "payload, queue, priority, run_at, timeout, unique_key, group_key, metadata"
    plain = enqueue(conn, "mail")
    nothing = enqueue(conn, "mail", queue=None, priority=None, run_at=None, on_conflict=None, unique_scope=None)
    conn.execute("SELECT 1")
    expected = conn.execute("SELECT jobqueue.enqueue('mail')").fetchone()
    assert expected is not None
    assert row(conn, columns, plain) == row(conn, columns, nothing) == row(conn, columns, expected[0])


def test_C2_what_cannot_be_meant_is_refused(conn: Conn) -> None:
    with pytest.raises(ValueError, match="time zone"):
        enqueue(conn, "mail", run_at=datetime.now())
    with pytest.raises(TypeError, match="unknown option 'prio'"):
        enqueue(conn, "mail", prio=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="sqlite3"):
        import sqlite3

        enqueue(sqlite3.connect(":memory:"), "mail")  # type: ignore[call-overload]


@pytest.mark.parametrize("payload", PAYLOADS, ids=repr)
def test_C3_payloads(conn: Conn, payload: Any) -> None:
    id = enqueue(conn, "mail", payload)
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    kind = kinds.get(type(payload), "null")
    assert row(conn, "payload, jsonb_typeof(payload)", id) == (payload, kind)


def test_C3_payload_left_out(conn: Conn) -> None:
    assert row(conn, "payload", enqueue(conn, "mail")) == ({},)


def test_C3_what_is_not_json(conn: Conn) -> None:
    for payload in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            enqueue(conn, "mail", payload)
    with pytest.raises(TypeError):
        enqueue(conn, "mail", object())


def test_C4_one_task_for_each_payload(conn: Conn) -> None:
    ids = enqueue_many(conn, "mail", PAYLOADS, priority=3)
    assert [row(conn, "payload, priority", id) for id in ids] == [(payload, 3) for payload in PAYLOADS]
    assert ids == sorted(ids)
    assert enqueue_many(conn, "mail", []) == []
    assert len(enqueue_many(conn, "mail", (n for n in range(1000)))) == 1000


def test_C4_async(database: None) -> None:
    async def work() -> None:
        async with await psycopg.AsyncConnection.connect(CLIENT) as conn:
            assert len(await enqueue_many(conn, "mail", ["a", "b"])) == 2
            assert await enqueue_many(conn, "mail", []) == []

    asyncio.run(work())


def test_C5_unique(conn: Conn) -> None:
    first = enqueue_unique(conn, "report", {"n": 1}, unique_key="k", unique_for=timedelta(days=1))
    again = enqueue_unique(conn, "report", {"n": 2}, unique_key="k", unique_for=timedelta(days=1))
    assert first.is_new is True
    assert again == (first.id, False)
    assert row(conn, "payload, unique_scope", first.id) == ({"n": 1}, "period")


def test_C5_async(database: None) -> None:
    async def work() -> None:
        async with await psycopg.AsyncConnection.connect(CLIENT) as conn:
            first = await enqueue_unique(conn, "report", unique_key="k")
            assert (await enqueue_unique(conn, "report", unique_key="k")) == (first.id, False)
            assert first.is_new

    asyncio.run(work())


def test_C7_errors_are_the_drivers(conn: Conn) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as caught, conn.transaction():
        enqueue(conn, "")
    assert caught.value.sqlstate == "22023"
    with pytest.raises(psycopg.errors.UntranslatableCharacter), conn.transaction():
        enqueue(conn, "mail", "\0")
    with pytest.raises(psycopg.errors.NullValueNotAllowed) as missing, conn.transaction():
        enqueue_unique(conn, "mail")
    assert missing.value.sqlstate == "22004"
    assert isinstance(enqueue(conn, "mail"), int)


def test_C7_errors_are_the_drivers_async(database: None) -> None:
    async def work() -> None:
        async with await psycopg.AsyncConnection.connect(CLIENT) as conn:
            await enqueue(conn, "")

    with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
        asyncio.run(work())
    assert caught.value.sqlstate == "22023"


def test_wait_for(conn: Conn, admin: Conn, queue: str) -> None:
    id = enqueue(conn, "mail", queue=queue)
    conn.commit()
    assert wait_for(conn, id, timedelta(milliseconds=10)) is None
    conn.execute("SELECT jobqueue.complete(id, attempts, '[1]') FROM jobqueue.claim(%s)", [queue])
    conn.commit()
    done = wait_for(conn, id)
    assert done is not None
    assert (done.id, done.status, done.attempts, done.result) == (id, "completed", 1, [1])

    async def wait() -> Any:
        async with await psycopg.AsyncConnection.connect(CLIENT) as conn:
            return await wait_for(conn, id)

    assert asyncio.run(wait()) == done
