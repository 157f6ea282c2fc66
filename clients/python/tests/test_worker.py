"""C8 to C16: workers in threads of the test, against a server that does nothing special."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from conftest import Start
from support import CLIENT, LIMIT, row, status, until, until_status

from jobqueue import App, ClaimLost, Discard, RetryIn, Snooze, Task, Worker, enqueue, enqueue_many, wait_for

Conn = psycopg.Connection[Any]


def add(admin: Conn, queue: str, type: str, payload: Any = None, **options: Any) -> int:
    return enqueue(admin, type, payload, queue=queue, **options)


def finish(admin: Conn, id: int) -> tuple[str, Any]:
    done = wait_for(admin, id, timedelta(seconds=LIMIT))
    assert done is not None, status(admin, id)
    return done.status, done.result


def test_C8_task_and_result(admin: Conn, start: Start, queue: str) -> None:
    app = App()

    @app.handler("plain")
    def plain(task: Task) -> Any:
        return [task.id, task.type, task.payload, task.attempt, task.queue, task.metadata, task.group_key]

    @app.handler("coroutine")
    async def coroutine(task: Task) -> Any:
        await asyncio.sleep(0)
        return plain(task)

    class Callable:
        async def __call__(self, task: Task) -> Any:
            return plain(task)

    app.handler("object")(Callable())
    for type in ("plain", "coroutine", "object"):
        id = add(admin, queue, type, {"n": [1, None, "Zażółć"]}, metadata={"m": 1}, group_key="g")
        bare = add(admin, queue, type)
        start(app)
        expected = [id, type, {"n": [1, None, "Zażółć"]}, 1, queue, {"m": 1}, "g"]
        assert finish(admin, id) == ("completed", expected)
        assert finish(admin, bare) == ("completed", [bare, type, None, 1, queue, None, None])


def test_C8_no_other_types(admin: Conn, start: Start, queue: str) -> None:
    app = App()
    app.handler("mine")(lambda task: None)
    before = add(admin, queue, "not mine")
    start(app)
    assert finish(admin, add(admin, queue, "mine")) == ("completed", None)
    assert row(admin, "status, attempts", before) == ("pending", 0)


def test_C8_all_queues(admin: Conn, start: Start, queue: str) -> None:
    app = App()
    app.handler(f"type of {queue}")(lambda task: task.queue)
    start(app, queue=None)
    for name in (queue, "default"):
        assert finish(admin, add(admin, name, f"type of {queue}")) == ("completed", name)


def test_C8_a_payload_that_python_cannot_read(admin: Conn, start: Start, queue: str) -> None:
    app = App()
    app.handler("t")(lambda task: "read")
    (bad,) = admin.execute(
        "SELECT jobqueue.enqueue('t', to_jsonb(repeat('9', 5000)::numeric), queue => %s, max_attempts => 1)", [queue]
    ).fetchone() or (0,)
    start(app)
    assert finish(admin, add(admin, queue, "t")) == ("completed", "read")
    assert finish(admin, bad)[0] == "failed"
    assert "digits" in row(admin, "last_error", bad)[0]


def test_C9_errors(admin: Conn, start: Start, queue: str) -> None:
    app = App()
    attempts: list[int] = []

    @app.handler("bad")
    def bad(task: Task) -> str:
        attempts.append(task.attempt)
        if task.attempt == 1:
            raise LookupError("not \0there: Zażółć")
        return "second"

    @app.handler("sql")
    async def sql(task: Task) -> None:
        async with await psycopg.AsyncConnection.connect(CLIENT) as conn:
            await conn.execute("SELECT 1 / 0")

    @app.handler("exit")
    def exit(task: Task) -> None:
        raise SystemExit(3)

    @app.handler("stop iteration")
    def stop_iteration(task: Task) -> None:
        raise StopIteration

    @app.handler("no json")
    def no_json(task: Task) -> Any:
        return {1, 2}

    start(app)
    id = add(admin, queue, "bad")
    until("the first attempt is reported", lambda: row(admin, "failures", id)[0])
    columns = "status, last_error, run_at > updated_at"
    assert row(admin, columns, id) == ("scheduled", "LookupError: not \N{REPLACEMENT CHARACTER}there: Zażółć", True)
    assert finish(admin, id) == ("completed", "second")
    assert attempts == [1, 2]

    for type, text, sqlstate in [
        ("sql", "psycopg.errors.DivisionByZero: division by zero", "22012"),
        ("exit", "SystemExit: 3", "P0001"),
        ("stop iteration", "RuntimeError: StopIteration", "P0001"),
        ("no json", "the result is not JSON: ", "P0001"),
    ]:
        id = add(admin, queue, type, max_attempts=1)
        assert finish(admin, id) == ("failed", None)
        error, state = row(admin, "last_error, last_sqlstate", id)
        assert error.startswith(text)
        assert state == sqlstate


def test_C9_discard_snooze_retry_in(admin: Conn, start: Start, queue: str) -> None:
    app = App()

    @app.handler("discard")
    def discard(task: Task) -> None:
        raise Discard("no use")

    @app.handler("snooze")
    async def snooze(task: Task) -> None:
        raise Snooze(timedelta(hours=1))

    @app.handler("retry")
    def retry(task: Task) -> None:
        raise RetryIn(timedelta(hours=2), LookupError("busy"))

    @app.handler("retry from")
    def retry_from(task: Task) -> None:
        try:
            raise LookupError("cause")
        except LookupError as error:
            raise RetryIn(timedelta(hours=2)) from error

    @app.handler("retry for ever")
    def retry_for_ever(task: Task) -> None:
        raise RetryIn(timedelta.max, "never")

    start(app)
    id = add(admin, queue, "discard")
    assert finish(admin, id) == ("failed", None)
    assert row(admin, "last_error, last_sqlstate, attempts", id) == ("no use", "JQ003", 1)
    id = add(admin, queue, "snooze")
    until_status(admin, id, "scheduled")
    assert row(admin, "max_attempts - attempts, failures, run_at > now() + '50 min'", id) == (20, None, True)
    for type, error in [("retry", "LookupError: busy"), ("retry from", "LookupError: cause")]:
        id = add(admin, queue, type)
        until_status(admin, id, "scheduled")
        assert row(admin, "last_error, max_attempts - attempts", id) == (error, 19)
        assert row(admin, "run_at > now() + '110 min' AND run_at < now() + '130 min'", id) == (True,)
    # an interval that is too long for a date is left out
    id = add(admin, queue, "retry for ever")
    until_status(admin, id, "scheduled")
    assert row(admin, "last_error", id) == ("never",)
    with pytest.raises(ValueError):
        Snooze(timedelta(seconds=-1))


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_C10_as_many_as_concurrency(admin: Conn, start: Start, queue: str, kind: str) -> None:
    app = App()
    lock = threading.Lock()
    gate = threading.Semaphore(0)
    active: list[int] = []
    most = 0

    def enter(task: Task) -> None:
        nonlocal most
        with lock:
            active.append(task.id)
            most = max(most, len(active))

    @app.handler("plain")
    def plain(task: Task) -> None:
        enter(task)
        gate.acquire()
        with lock:
            active.remove(task.id)

    @app.handler("coroutine")
    async def coroutine(task: Task) -> None:
        enter(task)
        await asyncio.to_thread(gate.acquire)
        with lock:
            active.remove(task.id)

    ids = enqueue_many(admin, kind, range(11), queue=queue)
    start(app, concurrency=4)
    for waiting in range(7, 0, -1):
        # the server, too, says that no more than four are in hand
        until("four run", lambda: len(active) == 4)
        counts = "SELECT status, count(*) FROM jobqueue.tasks WHERE queue = %s GROUP BY 1 ORDER BY 1"
        until(
            "the rest waits",
            lambda: {("pending", waiting), ("processing", 4)} <= set(admin.execute(counts, [queue]).fetchall()),
        )
        gate.release()
    for _ in range(4):
        gate.release()
    assert {finish(admin, id) for id in ids} == {("completed", None)}
    assert most == 4


def test_C11_listen(admin: Conn, start: Start, queue: str) -> None:
    app = App()
    app.handler("t")(lambda task: task.payload)
    start(app)
    # the worker may look by itself after the start and after a task; one that finds five in a row was told
    for n in range(5):
        until("the worker is idle", lambda: is_idle(admin))
        assert finish(admin, add(admin, queue, "t", n)) == ("completed", n)


def is_idle(admin: Conn) -> bool:
    found = admin.execute(
        "SELECT count(*) FILTER (WHERE query LIKE '%complete_and_claim%'), count(*) FILTER (WHERE query LIKE 'LISTEN%')"
        " FROM pg_stat_activity WHERE usename = 'client' AND application_name = 'jobqueue' AND state = 'idle'"
        " AND state_change < clock_timestamp() - interval '200 ms'"
    ).fetchall()
    return found == [(1, 1)]


def test_C12_poll(admin: Conn, start: Start, queue: str) -> None:
    app = App()
    app.handler("t")(lambda task: task.payload)
    start(app, listen=False, poll_interval=timedelta(milliseconds=300))
    for n in range(3):
        assert finish(admin, add(admin, queue, "t", n)) == ("completed", n)


def test_C13_the_lease_is_extended(admin: Conn, start: Start, queue: str) -> None:
    app = App()
    gate = threading.Event()
    runs: list[int] = []

    @app.handler("long")
    def long(task: Task) -> str:
        runs.append(task.attempt)
        gate.wait(LIMIT)
        return f"attempt {task.attempt}"

    lease = timedelta(seconds=6)
    start(app, lease=lease)
    start(app, lease=lease, poll_interval=timedelta(milliseconds=500))
    id = add(admin, queue, "long")
    until_status(admin, id, "processing")
    (end_of_first_lease,) = row(admin, "lease_expires_at", id)
    passed = "SELECT now() > %s + interval '2 seconds'"
    until("the first lease is over", lambda: admin.execute(passed, [end_of_first_lease]).fetchone() == (True,))
    assert row(admin, "status, attempts", id) == ("processing", 1)
    gate.set()
    assert finish(admin, id) == ("completed", "attempt 1")
    assert runs == [1]


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_C14_cancelled(
    admin: Conn, start: Start, queue: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    app = App()
    learned: list[str] = []

    @app.handler("plain")
    def plain(task: Task) -> str:
        if task.cancelled.wait(LIMIT):
            learned.append("plain")
        return "done"

    @app.handler("coroutine")
    async def coroutine(task: Task) -> str:
        try:
            await asyncio.sleep(LIMIT)
        except asyncio.CancelledError:
            assert task.cancelled.is_set()
            learned.append("coroutine")
        return "done"

    start(app, lease=timedelta(seconds=6))
    id = add(admin, queue, kind)
    until_status(admin, id, "processing")
    admin.execute("SELECT jobqueue.cancel(%s, 'enough')", [id])
    until("the handler learns of it", lambda: learned == [kind])
    until("the worker drops what it returns", lambda: "dropped" in caplog.text)
    assert row(admin, "status, result, last_error", id) == ("cancelled", None, "enough")
    app_is_free = add(admin, queue, kind)
    until_status(admin, app_is_free, "processing")
    admin.execute("SELECT jobqueue.cancel(%s)", [app_is_free])


def test_C14_lost(admin: Conn, start: Start, queue: str) -> None:
    app = App()
    results: list[int] = []
    first_is_told = threading.Event()

    @app.handler("t")
    def handler(task: Task) -> int:
        if task.attempt == 1:
            assert task.cancelled.wait(LIMIT)
            first_is_told.set()
            # the second attempt has ended before the first returns
            until("the second attempt", lambda: results == [2])
        results.append(task.attempt)
        return task.attempt

    start(app, lease=timedelta(seconds=6), concurrency=2)
    id = add(admin, queue, "t")
    until_status(admin, id, "processing")
    admin.execute("SELECT jobqueue.release(%s, 1)", [id])
    assert finish(admin, id) == ("completed", 2)
    assert first_is_told.wait(LIMIT)
    until("the first attempt ends", lambda: results == [2, 1])
    assert row(admin, "result, attempts", id) == (2, 2)


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_C15_in_the_handlers_transaction(admin: Conn, start: Start, queue: str, kind: str) -> None:
    app = App()

    @app.handler("plain")
    def plain(task: Task) -> str:
        with psycopg.connect(CLIENT) as conn:
            conn.execute("INSERT INTO effects VALUES (%s)", [task.payload["n"]])
            task.complete(conn, {"by": "hand"})
            if task.payload["fail"]:
                raise LookupError("after all")
        return "not this"

    @app.handler("coroutine")
    async def coroutine(task: Task) -> str:
        async with await psycopg.AsyncConnection.connect(CLIENT) as conn:
            await conn.execute("INSERT INTO effects VALUES (%s)", [task.payload["n"]])
            await task.complete(conn, {"by": "hand"})
            if task.payload["fail"]:
                raise LookupError("after all")
        return "not this"

    start(app)
    good = add(admin, queue, kind, {"n": 1, "fail": False})
    assert finish(admin, good) == ("completed", {"by": "hand"})
    bad = add(admin, queue, kind, {"n": 2, "fail": True}, max_attempts=1)
    assert finish(admin, bad) == ("failed", None)
    assert row(admin, "last_error", bad) == ("LookupError: after all",)
    assert admin.execute("SELECT n FROM effects").fetchall() == [(1,)]


def test_C15_a_claim_that_is_lost(admin: Conn, start: Start, queue: str) -> None:
    app = App()
    claimed, go = threading.Event(), threading.Event()
    caught: list[Exception] = []

    @app.handler("t")
    def handler(task: Task) -> None:
        claimed.set()
        assert go.wait(LIMIT)
        try:
            with psycopg.connect(CLIENT) as conn:
                conn.execute("INSERT INTO effects VALUES (1)")
                task.complete(conn)
        except ClaimLost as error:
            caught.append(error)
            raise

    start(app)
    id = add(admin, queue, "t")
    assert claimed.wait(LIMIT)
    admin.execute("SELECT jobqueue.cancel(%s)", [id])
    go.set()
    until("complete() says so", lambda: caught)
    assert row(admin, "status", id) == ("cancelled",)
    assert not admin.execute("SELECT FROM effects").fetchall()


def test_C15_the_row_is_locked_for_longer_than_the_lease(admin: Conn, start: Start, queue: str) -> None:
    """The worker must not wait for that lock, with all of its other tasks."""
    app = App()
    go = threading.Event()

    @app.handler("locks")
    def locks(task: Task) -> None:
        with psycopg.connect(CLIENT) as conn:
            task.complete(conn)
            assert go.wait(LIMIT)

    app.handler("short")(lambda task: task.payload)
    start(app, lease=timedelta(seconds=3))
    id = add(admin, queue, "locks")
    locked = "SELECT FROM pg_stat_activity WHERE query LIKE '%jobqueue.complete(%' AND state LIKE 'idle in%'"
    until("the row is locked", lambda: admin.execute(locked).fetchall())
    (since,) = admin.execute("SELECT now()").fetchone() or (None,)
    n = 0
    while admin.execute("SELECT now() > %s::timestamptz + interval '4 seconds'", [since]).fetchone() == (False,):
        n += 1
        assert finish(admin, add(admin, queue, "short", n)) == ("completed", n)
    go.set()
    assert finish(admin, id) == ("completed", None)
    assert row(admin, "attempts", id) == (1,)


@pytest.fixture
def changes(admin: Conn) -> Iterator[None]:
    """A table of the changes of tasks, with their transactions."""
    admin.execute("CREATE TABLE changes (xact xid8 DEFAULT pg_current_xact_id(), type text, status text)")
    admin.execute(
        "CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN"
        " INSERT INTO public.changes (type, status) VALUES (NEW.type, NEW.status); RETURN NULL; END $$"
    )
    admin.execute(
        "CREATE TRIGGER note_change AFTER INSERT OR UPDATE ON jobqueue.tasks"
        " FOR EACH ROW EXECUTE FUNCTION note_change()"
    )
    yield
    admin.execute("DROP TRIGGER note_change ON jobqueue.tasks")
    admin.execute("DROP FUNCTION note_change")
    admin.execute("DROP TABLE changes")


def test_C16_batches(changes: None, admin: Conn, start: Start, queue: str) -> None:
    app = App()
    gate = threading.Event()

    @app.handler("long")
    async def long(task: Task) -> str:
        await asyncio.to_thread(gate.wait, LIMIT)
        return "long"

    @app.handler("short")
    async def short(task: Task) -> Any:
        return task.payload

    long_id = add(admin, queue, "long", priority=-1)
    ids = enqueue_many(admin, "short", range(200), queue=queue)
    start(app, concurrency=20)
    assert [finish(admin, id) for id in ids] == [("completed", n) for n in range(200)]
    assert status(admin, long_id) == "processing"
    ends, claims = "status = 'completed' AND type = 'short'", "status = 'processing' AND type = 'short'"
    (transactions,) = admin.execute(f"SELECT count(DISTINCT xact) FROM changes WHERE {ends}").fetchone() or (0,)
    assert transactions <= 100
    # and most of these transactions claimed others
    (both,) = admin.execute(
        f"SELECT count(DISTINCT xact) FROM changes WHERE {ends} AND xact IN (SELECT xact FROM changes WHERE {claims})"
    ).fetchone() or (0,)
    assert both >= transactions / 2
    gate.set()
    assert finish(admin, long_id) == ("completed", "long")


def test_C16_one_result_that_the_server_refuses(admin: Conn, start: Start, queue: str) -> None:
    """It must not keep the others of its batch from being reported."""
    app = App()
    app.handler("t")(lambda task: "\0" if task.payload == 3 else task.payload)
    ids = enqueue_many(admin, "t", range(10), queue=queue, max_attempts=1)
    start(app)
    assert [finish(admin, id)[0] for id in ids] == ["failed" if n == 3 else "completed" for n in range(10)]
    assert row(admin, "last_sqlstate", ids[3]) == ("22P05",)


def test_progress(admin: Conn, start: Start, queue: str) -> None:
    app = App()
    go = threading.Event()

    @app.handler("plain")
    def plain(task: Task) -> None:
        task.progress(0.25, "a\0 quarter")
        assert go.wait(LIMIT)
        task.progress(1)

    @app.handler("coroutine")
    async def coroutine(task: Task) -> None:
        for n in range(1000):
            task.progress(n / 1000)
        task.progress(1.0, "Zażółć")
        with pytest.raises(ValueError):
            task.progress(float("nan"))

    start(app)
    id = add(admin, queue, "plain")
    columns = "progress, progress_message"
    quarter = (0.25, "a\N{REPLACEMENT CHARACTER} quarter")
    until("the report is there", lambda: row(admin, columns, id) == quarter)
    go.set()
    assert finish(admin, id)[0] == "completed"
    assert row(admin, columns, id) == (1.0, None)
    id = add(admin, queue, "coroutine")
    assert finish(admin, id)[0] == "completed"
    assert row(admin, columns, id) == (1.0, "Zażółć")


def test_what_a_worker_cannot_be(database: None) -> None:
    app = App()
    with pytest.raises(ValueError, match="no handlers"):
        Worker(app)
    app.handler("t")(lambda task: None)
    with pytest.raises(ValueError, match="already"):
        app.handler("t")(lambda task: None)
    with pytest.raises(ValueError, match="concurrency"):
        Worker(app, concurrency=0)
    with pytest.raises(ValueError, match="positive"):
        Worker(app, lease=timedelta(0))
