"""C21: tasks all the time, workers that come and go, and a server that restarts."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from typing import Any

import psycopg
from conftest import Launch
from support import CLIENT, LIMIT, Server, WorkerProcess, until
from typing_extensions import LiteralString

from jobqueue import enqueue_many

SECONDS = int(os.environ.get("CLIENTS_SECONDS", "20"))
STOP_EVERY = 10 if SECONDS >= 60 else 4  # s
RATE = 100  # tasks a second


class Producer(threading.Thread):
    """Enqueues at the rate, also over restarts of the server. committed has the numbers that must not be lost."""

    def __init__(self, queue: str) -> None:
        super().__init__(daemon=True)
        self.queue = queue
        self.enough = threading.Event()
        self.committed: list[int] = []

    def run(self) -> None:
        started, next_number = time.monotonic(), 0
        conn = None
        while not self.enough.is_set():
            due = int((time.monotonic() - started) * RATE)
            numbers = range(next_number, due)
            next_number = max(due, next_number)
            try:
                conn = conn or psycopg.connect(CLIENT, autocommit=True)
                payloads = [{"n": n, "seconds": random.random() / 10} for n in numbers]
                enqueue_many(conn, "work", payloads, queue=self.queue)
                self.committed.extend(numbers)
            except psycopg.OperationalError:
                # nobody knows whether these are there; later ones have other numbers
                if conn is not None:
                    conn.close()
                conn = None
            self.enough.wait(0.05)
        if conn is not None:
            conn.close()


def query(statement: LiteralString, *values: Any) -> list[tuple[Any, ...]]:
    """Over a restart of the server, too."""

    def attempt() -> Any:
        try:
            with psycopg.connect(autocommit=True) as conn:
                return [conn.execute(statement, values).fetchall()]
        except psycopg.OperationalError:
            return None

    return list(until("the server answers", attempt)[0])


def name_of(worker: WorkerProcess) -> str:
    found = re.search(r"connected: queue .*, as (\S+)", worker.output())
    assert found is not None
    return found[1]


def holds_nothing(worker: WorkerProcess) -> bool:
    claimed = "SELECT id FROM jobqueue.tasks WHERE status = 'processing' AND claimed_by = %s"
    return query(claimed, name_of(worker)) == []


def test_C21_nothing_is_lost(launch: Launch, queue: str, server: Server) -> None:
    rounds = max(3, SECONDS // STOP_EVERY)
    restarts = {rounds // 3, 2 * rounds // 3}

    def launch_one(n: int) -> WorkerProcess:
        # a short grace gives tasks back, but is not enough for a server that is down
        grace = "60" if n in restarts else "0.02"
        return launch("--lease", "3600", "--grace", grace, "--concurrency", "20")

    producer = Producer(queue)
    producer.start()
    worker = launch_one(0)
    for n in range(rounds):
        time.sleep(STOP_EVERY * (0.9 + random.random() / 5))  # this is the load, not a wait for something
        if n == rounds // 3:
            server.control("restart", "-m", "fast")
        worker.process.send_signal(signal.SIGTERM)
        if n == 2 * rounds // 3:
            server.control("restart", "-m", "fast")
        following = launch_one(n + 1)
        assert worker.ends() == 0, worker.output()
        assert holds_nothing(worker), worker.output()
        assert "ERROR" not in worker.output(), worker.output()
        worker = following
    producer.enough.set()
    producer.join()

    waiting = "SELECT count(*) FROM jobqueue.tasks WHERE queue = %s AND status <> 'completed'"
    until("all are completed", lambda: query(waiting, queue) == [(0,)], 2 * LIMIT)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.ends() == 0
    tasks = query("SELECT (payload->>'n')::int, result::int, failures FROM jobqueue.tasks WHERE queue = %s", queue)
    assert {n for n, _, _ in tasks} >= set(producer.committed)
    assert len(tasks) == len({n for n, _, _ in tasks})
    assert all(n == result and failures is None for n, result, failures in tasks)
    assert len(producer.committed) >= SECONDS * RATE / 2
    print(f"{len(tasks)} tasks completed, {rounds} workers stopped, 2 restarts of the server")
