"""A database with the extension on the server that the PG variables lead to, workers in threads, and processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Callable

import psycopg
import pytest
from support import CLIENT, Server, WorkerProcess, until

from jobqueue import App, Worker


@pytest.fixture(scope="session")
def database() -> None:
    with psycopg.connect(autocommit=True) as conn:
        conn.execute("CREATE EXTENSION jobqueue")
        conn.execute("CREATE TABLE effects (n bigint)")
        # roles belong to the whole server
        if not conn.execute("SELECT FROM pg_roles WHERE rolname = 'client'").fetchall():
            conn.execute("CREATE ROLE client LOGIN")
        conn.execute("GRANT ALL ON effects TO client")
        conn.execute("SELECT jobqueue.grant_access('client', 'producer'), jobqueue.grant_access('client', 'consumer')")


@pytest.fixture
def admin(database: None) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(autocommit=True) as conn:
        conn.execute("TRUNCATE effects")
        yield conn


@pytest.fixture
def conn(database: None) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the application, which is not in autocommit mode."""
    with psycopg.connect(CLIENT) as conn:
        yield conn


@pytest.fixture
def queue() -> str:
    """A queue of this test alone."""
    return f"queue {uuid.uuid4().hex[:8]}"


Start = Callable[..., Worker]


@pytest.fixture
def start(database: None, queue: str) -> Iterator[Start]:
    """Starts workers in threads, and stops them at the end."""
    with ExitStack() as stack:

        def start_worker(app: App, conninfo: str = CLIENT, **options: Any) -> Worker:
            options = {"queue": queue, "poll_interval": timedelta(hours=1), **options}
            worker = Worker(app, conninfo, **options)
            stack.enter_context(running(worker))
            return worker

        yield start_worker


@contextmanager
def running(worker: Worker) -> Iterator[None]:
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(60)
        assert not thread.is_alive(), "the worker does not stop"


Launch = Callable[..., WorkerProcess]


@pytest.fixture
def launch(database: None, queue: str, tmp_path: Path) -> Iterator[Launch]:
    """Starts workers from the command line, and kills those that are left at the end."""
    processes: list[WorkerProcess] = []

    def launch_worker(*options: str) -> WorkerProcess:
        log = tmp_path / f"worker {len(processes)}"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "jobqueue", "worker", "handlers:app", "--queue", queue, *options],
                cwd=os.path.dirname(__file__),
                env={**os.environ, "PGUSER": "client", "PYTHONDONTWRITEBYTECODE": "1"},
                stdout=out,
                stderr=out,
            )
        processes.append(WorkerProcess(process, log))
        until("the worker is connected", lambda: " connected: " in processes[-1].output() or process.poll() is not None)
        assert process.poll() is None, processes[-1].output()
        return processes[-1]

    yield launch_worker
    for worker in processes:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait()


@pytest.fixture
def server() -> Iterator[Server]:
    """The server, to be restarted. It runs again at the end, whatever the test did."""
    server = Server(Path(os.environ["PGHOST"]))
    yield server
    server.ensure_started()
