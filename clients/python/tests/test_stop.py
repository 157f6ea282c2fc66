"""C17, C19 and C22: workers that are processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Launch, running
from support import CLIENT, LIMIT, Server, WorkerProcess, row, until, until_status

from jobqueue import App, Task, Worker, enqueue, enqueue_many, wait_for

Conn = psycopg.Connection[Any]
SIGNALS = [signal.SIGTERM, signal.SIGINT]


def told(worker: WorkerProcess, number: signal.Signals) -> None:
    worker.process.send_signal(number)
    until("it says so", lambda: f"{number.name}: stopping" in worker.output())


@pytest.mark.parametrize("number", SIGNALS)
def test_C17_running_handlers_end(
    admin: Conn, launch: Launch, queue: str, tmp_path: Path, number: signal.Signals
) -> None:  # fmt: skip
    worker = launch("--concurrency", "2", "--grace", "60")
    file = tmp_path / "go"
    first, second, third = enqueue_many(admin, "wait", [str(file)] * 3, queue=queue)
    until_status(admin, first, "processing")
    until_status(admin, second, "processing")
    told(worker, number)
    file.touch()
    assert worker.ends() == 0
    for id in (first, second):
        assert row(admin, "status, attempts, result", id) == ("completed", 1, "waited")
    assert row(admin, "status, attempts", third) == ("pending", 0)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("type", ["stubborn", "wait", "deaf"])
def test_C17_what_is_not_done_is_given_back(
    admin: Conn, launch: Launch, queue: str, tmp_path: Path, number: signal.Signals, type: str
) -> None:
    worker = launch("--grace", "0.5")
    ids = enqueue_many(admin, type, [str(tmp_path / "never")] * 2, queue=queue)
    for id in ids:
        until_status(admin, id, "processing")
    told(worker, number)
    assert worker.ends() == 0
    for id in ids:
        assert row(admin, "status, max_attempts - attempts, failures, result", id) == ("pending", 20, None, None)


@pytest.mark.parametrize("number", SIGNALS)
def test_C17_the_second_signal_ends_it_at_once(
    admin: Conn, launch: Launch, queue: str, number: signal.Signals
) -> None:  # fmt: skip
    worker = launch("--grace", "3600")
    id = enqueue(admin, "stubborn", queue=queue)
    until_status(admin, id, "processing")
    told(worker, number)
    worker.process.send_signal(number)
    assert worker.ends() == -number
    assert row(admin, "status", id) == ("processing",)


def test_C17_idle_and_without_a_server(launch: Launch, server: Server) -> None:
    worker = launch("--grace", "3600")
    server.stop()
    until("it notices", lambda: "connecting again" in worker.output())
    told(worker, signal.SIGTERM)
    assert worker.ends() == 0


def test_C17_a_report_that_needs_the_server(
    admin: Conn, launch: Launch, queue: str, tmp_path: Path, server: Server
) -> None:  # fmt: skip
    """It is told to stop while the server is down, and waits for the server, because it has something to report."""
    worker = launch("--grace", "60")
    file = tmp_path / "go"
    id = enqueue(admin, "wait", str(file), queue=queue)
    until_status(admin, id, "processing")
    server.stop()
    until("it notices", lambda: "connecting again" in worker.output())
    told(worker, signal.SIGTERM)
    file.touch()
    server.start()
    assert worker.ends() == 0
    with psycopg.connect() as conn:
        assert row(conn, "status, attempts", id) == ("completed", 1)


def test_C17_stop_from_the_program(admin: Conn, queue: str) -> None:
    app = App()
    go = threading.Event()

    @app.handler("t")
    def handler(task: Task) -> str:
        assert go.wait(LIMIT)
        return "done"

    worker = Worker(app, CLIENT, queue=queue, grace=timedelta(seconds=60))
    with running(worker):
        id = enqueue(admin, "t", queue=queue)
        until_status(admin, id, "processing")
        worker.stop()
        go.set()
    assert row(admin, "status, attempts", id) == ("completed", 1)
    stopped_before = Worker(app, CLIENT, queue=queue)
    stopped_before.stop()
    stopped_before.run()


def test_C17_stop_at_any_moment(admin: Conn, queue: str) -> None:
    app = App()
    app.handler("t")(lambda task: None)
    ids = enqueue_many(admin, "t", range(500), queue=queue)

    async def work() -> None:
        for n in range(100):
            worker = Worker(app, CLIENT, queue=queue, concurrency=3)
            running = asyncio.ensure_future(worker.run_async())
            await asyncio.sleep(n / 1500)
            worker.stop()
            await asyncio.wait_for(running, LIMIT)

    asyncio.run(work())
    left = "SELECT count(*) FROM jobqueue.tasks WHERE id = ANY (%s) AND status NOT IN ('pending', 'completed')"
    assert admin.execute(left, [ids]).fetchone() == (0,)


def test_C17_stop_while_a_notification_comes(admin: Conn, queue: str) -> None:
    """Before Python 3.12, asyncio.wait_for() swallows a cancellation that comes together with what it waits for."""
    app = App()
    app.handler("t")(lambda task: None)
    listening = "SELECT FROM pg_stat_activity WHERE usename = 'client' AND query LIKE 'LISTEN%' AND state = 'idle'"

    async def stop(steps_before: int, steps_after: int) -> None:
        worker = Worker(app, CLIENT, queue=queue)
        running = asyncio.ensure_future(worker.run_async())
        while not admin.execute(listening).fetchall():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        for _ in range(steps_before):
            await asyncio.sleep(0)
        if steps_after:
            worker.stop()
        for _ in range(steps_after):
            await asyncio.sleep(0)
        admin.execute("NOTIFY task_queue")
        time.sleep(0.15)  # the loop stands still; at its next step it finds the notification, and timers that are due
        for _ in range(steps_before):
            await asyncio.sleep(0)
        worker.stop()
        await asyncio.wait_for(running, LIMIT)
        until("it has disconnected", lambda: not admin.execute(listening).fetchall())

    for steps in range(8):
        asyncio.run(stop(steps, 0))
        asyncio.run(stop(0, steps))


def test_C17_a_program_with_a_handler_that_does_not_end(admin: Conn, queue: str, tmp_path: Path) -> None:
    program = (
        "import logging, sys, jobqueue, handlers; from datetime import timedelta; logging.basicConfig(level='INFO')\n"
        "jobqueue.Worker(handlers.app, queue=sys.argv[1], grace=timedelta(0)).run()"
    )
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", program, queue],
            cwd=os.path.dirname(__file__),
            env={**os.environ, "PGUSER": "client", "PYTHONDONTWRITEBYTECODE": "1"},
            stderr=out,
        )
    try:
        id = enqueue(admin, "stubborn", queue=queue)
        until_status(admin, id, "processing")
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert row(admin, "status", id) == ("pending",)


def test_C19_killed(admin: Conn, launch: Launch, queue: str, tmp_path: Path) -> None:
    killed = launch("--lease", "5")
    file = tmp_path / "go"
    id = enqueue(admin, "wait", str(file), queue=queue)
    until_status(admin, id, "processing")
    killed.process.kill()
    killed.process.wait()
    launch("--lease", "60", "--poll-interval", "0.5")
    assert row(admin, "attempts", id) == (1,)
    until("another worker has it", lambda: row(admin, "status, attempts", id) == ("processing", 2))
    file.touch()
    done = wait_for(admin, id, timedelta(seconds=LIMIT))
    assert done is not None
    assert (done.status, done.attempts) == ("completed", 2)
    assert row(admin, "failures->0->>'sqlstate'", id) == ("JQ001",)


def test_C22_command_line(admin: Conn, launch: Launch, queue: str) -> None:
    launch("--concurrency", "3", "--lease", "60", "--poll-interval", "1", "--no-listen", "--log-level", "info")
    id = enqueue(admin, "echo", {"a": 1}, queue=queue)
    done = wait_for(admin, id, timedelta(seconds=LIMIT))
    assert done is not None
    assert (done.status, done.result) == ("completed", {"payload": {"a": 1}, "attempt": 1})


def command(*arguments: str, directory: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "jobqueue", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("handlers", "'handlers' is not of the form MODULE:APP"),
        ("nowhere:app", "there is no module 'nowhere'"),
        ("package.nowhere:app", "there is no module 'package.nowhere'"),
        ("needs:app", "the module 'needs' cannot be imported: No module named 'something_else'"),
        ("broken:app", "the module 'broken' cannot be imported: ZeroDivisionError"),
        ("fine:other", "'fine' has no 'other'"),
        ("fine:number", "'fine:number' is a int, not a jobqueue.App"),
        ("fine:app", "the app has no handlers"),
    ],
)
def test_C22_names_that_it_cannot_load(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "needs.py").write_text("import something_else\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "fine.py").write_text("import jobqueue\napp = jobqueue.App()\nnumber = 1\n")
    code, output = command("worker", name, directory=tmp_path)
    assert code == 2
    assert text in output
    assert output.startswith("usage: ") or name == "broken:app"


def test_C22_options_that_it_does_not_know(tmp_path: Path) -> None:
    assert command("worker", "app:app", "--concurency", "1", directory=tmp_path)[0] == 2
    assert command(directory=tmp_path)[0] == 2
    code, output = command("worker", "--help", directory=tmp_path)
    assert code == 0
    assert "--concurrency" in output
