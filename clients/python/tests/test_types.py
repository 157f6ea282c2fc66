"""C24: mypy --strict finds nothing in the package and its tests, and finds what is wrong in a program that uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

PROGRAM = """
import psycopg
from datetime import timedelta
from typing import List, Optional
from jobqueue import App, Outcome, Task, enqueue, enqueue_many, enqueue_unique, wait_for
from sqlalchemy.orm import Session
from sqlalchemy.ext.asyncio import AsyncSession

app = App()

@app.handler("mail")
async def mail(task: Task) -> str:
    return task.type

def sync(conn: psycopg.Connection, session: Session) -> None:
    a: int = enqueue(conn, "mail", {"to": 1}, delay=timedelta(hours=1), on_conflict="keep")
    b: List[int] = enqueue_many(session, "mail", [1, 2])
    c: bool = enqueue_unique(conn, "mail", unique_key="k", unique_for=timedelta(days=1)).is_new
    d: Optional[Outcome] = wait_for(conn, a)

async def coroutine(conn: psycopg.AsyncConnection, session: AsyncSession, task: Task) -> None:
    a: int = await enqueue(conn, "mail")
    b: List[int] = await enqueue_many(session, "mail", [])
    await task.complete(conn)
"""

WRONG = [
    ("enqueue(conn, 5)", "call-overload"),
    ("enqueue(conn, 'mail', delay=5)", "typeddict-item|call-overload|arg-type"),
    ("enqueue(conn, 'mail', dealy=timedelta(1))", "call-overload|call-arg"),
    ("enqueue(conn, 'mail', on_conflict='kept')", "call-overload|arg-type"),
    ("enqueue_many(conn, 'mail', [], unique_key='k')", "call-overload|call-arg"),
    ("x: str = enqueue(conn, 'mail')", "assignment"),
    ("app.handler('other')(lambda: None)", "type-var|arg-type|misc"),
]


def mypy(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *arguments],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"--cache-dir={tmp_path_factory.mktemp('mypy')}"


def test_C24_the_package_and_its_tests(cache: str) -> None:
    done = mypy(cache, "--config-file", "pyproject.toml", "src", "tests", directory=HERE.parent)
    assert done.returncode == 0, done.stdout
    # for the oldest Python that pyproject.toml names; pytest itself needs a newer one
    done = mypy(cache, "--config-file", "pyproject.toml", "--python-version", "3.9", "src", directory=HERE.parent)
    assert done.returncode == 0, done.stdout


def test_C24_programs_that_use_it(cache: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = mypy(cache, str(program), directory=tmp_path)
    assert done.returncode == 0, done.stdout
    lines = PROGRAM.count("\n")
    program.write_text(
        PROGRAM
        + "def wrong(conn: psycopg.Connection) -> None:\n"
        + "".join(f"    {line}\n" for line, _ in WRONG)
        + "async def forgotten(conn: psycopg.AsyncConnection) -> None:\n    enqueue(conn, 'mail')\n"
    )
    done = mypy(cache, str(program), directory=tmp_path)
    for n, (line, codes) in enumerate(WRONG):
        found = [text for text in done.stdout.splitlines() if text.startswith(f"program.py:{lines + 2 + n}: error")]
        assert any(f"[{code}]" in text for text in found for code in codes.split("|")), f"{line}: {done.stdout}"
    assert "[unused-coroutine]" in done.stdout
