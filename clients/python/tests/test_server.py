"""C12 behind a pooler, C18 and C20: what happens to the server while a worker runs."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Start
from support import CLIENT, LIMIT, Server, row, until, until_status

from jobqueue import App, Task, enqueue, wait_for
from jobqueue._pause import GrowingDelay

Conn = psycopg.Connection[Any]


@pytest.fixture
def directory(database: None, server: Server) -> Iterator[Path]:
    """A directory that belongs to the owner of the server, with a short path, because sockets are in it."""
    directory = Path(tempfile.mkdtemp(prefix="py", dir=os.environ["PGHOST"]))
    shutil.chown(directory, server.owner)
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def pooler(directory: Path, server: Server) -> Iterator[str]:
    """pgbouncer in transaction mode; how to connect to it."""
    program = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin")
    assert program is not None, "pgbouncer is not installed"
    (directory / "users").write_text('"client" ""\n')
    (directory / "ini").write_text(f"""
        [databases]
        * = host={os.environ["PGHOST"]} port={os.environ["PGPORT"]}
        [pgbouncer]
        listen_addr =
        unix_socket_dir = {directory}
        listen_port = 6432
        auth_type = trust
        auth_file = {directory}/users
        pool_mode = transaction
        """.replace("    ", ""))
    as_owner = ["runuser", "-u", server.owner, "--"] if os.getuid() == 0 else []
    process = subprocess.Popen([*as_owner, program, str(directory / "ini")], cwd="/")
    try:
        until("the pooler is there", lambda: (directory / ".s.PGSQL.6432").exists() or process.poll() is not None)
        yield f"host={directory} port=6432 user=client dbname={os.environ['PGDATABASE']}"
    finally:
        process.terminate()
        process.wait()


def test_C12_deaf_behind_a_pooler(admin: Conn, start: Start, queue: str, pooler: str) -> None:
    app = App()
    app.handler("t")(lambda task: task.payload)
    start(app, pooler, poll_interval=timedelta(milliseconds=500))
    with psycopg.connect(pooler, prepare_threshold=None) as conn:
        for n in range(10):
            id = enqueue(conn, "t", n, queue=queue)
            conn.commit()
            done = wait_for(admin, id, timedelta(seconds=LIMIT))
            assert done is not None
            assert (done.status, done.result) == ("completed", n)


def test_C18_the_server_restarts(
    admin: Conn, start: Start, queue: str, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    app = App()
    runs: list[Any] = []
    ended: list[Any] = []
    go: dict[str, threading.Event] = {"meanwhile": threading.Event(), "later": threading.Event()}

    @app.handler("t")
    def handler(task: Task) -> Any:
        runs.append(task.payload)
        assert task.payload not in go or go[task.payload].wait(LIMIT)
        ended.append(task.payload)
        return task.payload

    def failures() -> int:
        return sum("connecting again" in record.getMessage() for record in caplog.records)

    start(app)
    ids = {payload: enqueue(admin, "t", payload, queue=queue) for payload in go}
    for id in ids.values():
        until_status(admin, id, "processing")
    admin.close()
    server.stop()
    until("the worker notices", lambda: "connecting again" in caplog.text)
    go["meanwhile"].set()
    until("it ends", lambda: ended == ["meanwhile"])
    before = failures()
    until("the worker has tried again", lambda: failures() >= before + 2)
    server.start()
    with psycopg.connect(autocommit=True) as conn:
        until_status(conn, ids["meanwhile"], "completed")
        go["later"].set()
        until_status(conn, ids["later"], "completed")
        for id in ids.values():
            assert row(conn, "attempts, failures", id) == (1, None)
        # it listens again: the poll is an hour away
        for n in range(3):
            assert wait_for(conn, enqueue(conn, "t", n, queue=queue), timedelta(seconds=LIMIT)) is not None
    assert runs == [*go, 0, 1, 2]
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    assert len([message for message in messages if "connecting again" in message]) == 1
    assert len([message for message in messages if "cannot listen" in message]) == 1
    assert len([message for message in messages if message.startswith("connected")]) == 2


def test_C18_a_claim_whose_answer_was_lost(admin: Conn, start: Start, queue: str) -> None:
    app = App()
    started: list[int] = []
    go = threading.Event()

    @app.handler("t")
    def handler(task: Task) -> Any:
        started.append(task.id)
        return go.wait(LIMIT)

    start(app, concurrency=3)
    running = enqueue(admin, "t", queue=queue)
    until_status(admin, running, "processing")
    (name,) = row(admin, "claimed_by", running)
    # as if the worker had claimed it, and the connection had ended before the answer came
    with admin.transaction():
        lost = enqueue(admin, "t", queue=queue)
        admin.execute("SELECT FROM jobqueue.claim(%s, claimed_by => %s)", [queue, name])
    assert row(admin, "status, attempts", lost) == ("processing", 1)
    admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'client'")
    until("it runs", lambda: started == [running, lost])
    go.set()
    for id in (running, lost):
        until_status(admin, id, "completed")
        assert row(admin, "attempts", id) == (1,)


def test_C18_the_delay_grows_to_a_ceiling() -> None:
    delay = GrowingDelay()
    delays = [delay.next() for _ in range(12)]
    assert delays[0] < 0.5
    assert all(later > earlier for earlier, later in zip(delays[:5], delays[1:5]))
    assert max(delays) <= 12
    assert min(delays[-4:]) >= 8
    delay.reset()
    assert delay.next() < 0.5


def test_C20_a_standby_is_promoted(directory: Path, server: Server, queue: str, start: Start) -> None:
    primary = Server(directory / "a", server.owner)
    standby = Server(directory / "b", server.owner)
    for member in (primary, standby):
        member.run("mkdir", str(member.directory))
    # a database without an encoding, in which psycopg returns bytes where it is not told one
    encoding = ["-E", "SQL_ASCII", "--locale=C"]
    server.run("initdb", "-D", str(primary.directory / "data"), "-U", "postgres", "-A", "trust", "-N", *encoding)
    configure(primary)
    primary.start()
    try:
        with administer(primary) as conn:
            conn.execute("CREATE EXTENSION jobqueue")
            conn.execute("CREATE ROLE client LOGIN")
            for access in ("producer", "consumer"):
                conn.execute("SELECT jobqueue.grant_access('client', %s)", [access])
        server.run(
            *["pg_basebackup", "-h", str(primary.directory), "-p", "5432", "-U", "postgres"],
            *["-D", str(standby.directory / "data"), "-R", "-c", "fast"],
        )
        configure(standby)
        standby.start()
        fail_over(primary, standby, queue, start)
    finally:
        for member in (primary, standby):
            if (member.directory / "data" / "postmaster.pid").exists():
                member.control("stop", "-m", "immediate")


def administer(member: Server) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host=str(member.directory), user="postgres", dbname="postgres", client_encoding="utf8", autocommit=True
    )


def configure(member: Server) -> None:
    with (member.directory / "data" / "postgresql.conf").open("a") as conf:
        conf.write(
            f"listen_addresses = ''\nunix_socket_directories = '{member.directory}'\nport = 5432\n"
            "shared_preload_libraries = 'jobqueue'\nfsync = off\nautovacuum = off\n"
        )


def fail_over(primary: Server, standby: Server, queue: str, start: Start) -> None:
    app = App()
    go = threading.Event()
    runs: list[Any] = []

    @app.handler("t")
    def handler(task: Task) -> Any:
        runs.append(task.payload)
        assert task.payload != "held" or go.wait(LIMIT)
        return task.payload

    # the standby comes first: it does not do, as long as it is one
    start(app, f"host={standby.directory},{primary.directory} port=5432,5432 user=client dbname=postgres")
    with administer(primary) as conn:
        conn.execute("SET synchronous_commit = 'remote_apply'")
        first = enqueue(conn, "t", "first", queue=queue)
        until_status(conn, first, "completed")
        held = enqueue(conn, "t", "held", queue=queue)
        until_status(conn, held, "processing")
        (now,) = conn.execute("SELECT pg_current_wal_insert_lsn()").fetchone() or ("",)
        replayed = "SELECT bool_and(replay_lsn >= %s) FROM pg_stat_replication"
        until("the standby has all", lambda: conn.execute(replayed, [now]).fetchone() == (True,))
    primary.control("stop", "-m", "immediate")
    standby.control("promote")
    with administer(standby) as conn:
        second = enqueue(conn, "t", "second", queue=queue)
        until_status(conn, second, "completed")
        go.set()
        until_status(conn, held, "completed")
        assert row(conn, "attempts", held) == (1,)
    assert runs == ["first", "held", "second"]
