"""What several tests need."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

import psycopg

LIMIT = 60.0  # s; the machine may be busy
CLIENT = "user=client"


def until(what: str, condition: Callable[[], Any], limit: float = LIMIT) -> Any:
    """Waits for a condition, and returns what it returns."""
    deadline = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {limit} s: {what}"
        time.sleep(0.02)


def row(conn: psycopg.Connection[Any], columns: str, id: int) -> tuple[Any, ...]:
    """Columns of a task."""
    query: Any = f"SELECT {columns} FROM jobqueue.tasks WHERE id = %s"  # not a literal
    found = conn.execute(query, [id]).fetchone()
    assert found is not None
    return tuple(found)


def status(conn: psycopg.Connection[Any], id: int) -> str:
    return str(row(conn, "status", id)[0])


def until_status(conn: psycopg.Connection[Any], id: int, wanted: str) -> None:
    seen = ""

    def reached() -> bool:
        nonlocal seen
        seen = status(conn, id)
        return seen == wanted

    until(f"task {id} is {wanted}", reached)


@dataclass
class WorkerProcess:
    process: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        return self.log.read_text()

    def ends(self) -> int:
        """Waits for the end; the exit code."""
        return self.process.wait(LIMIT)


class Server:
    """A server in a directory with data, log and the socket. Commands run as the owner, who is never root."""

    def __init__(self, directory: Path, owner: Optional[str] = None) -> None:
        self.directory = directory
        self._owner = owner or directory.joinpath("data").owner()

    @property
    def owner(self) -> str:
        return self._owner

    def run(self, *command: str) -> None:
        as_owner = ["runuser", "-u", self._owner, "--"] if os.getuid() == 0 else []
        subprocess.run([*as_owner, *command], check=True, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def control(self, *command: str) -> None:
        data, log = str(self.directory / "data"), str(self.directory / "log")
        self.run("pg_ctl", "-D", data, "-l", log, "-w", "-t", "60", "-s", *command)

    def stop(self) -> None:
        self.control("stop", "-m", "fast")

    def start(self) -> None:
        self.control("start")

    def ensure_started(self) -> None:
        try:
            self.control("status")
        except subprocess.CalledProcessError:
            self.start()
