"""For the tests of an application: run waiting tasks inside the test's own transaction, and roll all of it back."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Optional, Union, overload

from . import _sql
from ._app import App, is_coroutine
from ._connections import AsyncConn, Conn, Rows, SyncConn, fetch, fetch_async, is_async, run
from ._enqueue import OUTCOME_COLUMNS, Outcome, outcome
from ._reports import Failed, Report, report_of_error, report_of_value, statement_of
from ._task import TASK_COLUMNS, Task
from .errors import Discard, RetryIn, Snooze

__all__ = ["drain", "run_tasks"]

# these say what becomes of the task; any other error is one of the handler
CONTROL = (Discard, Snooze, RetryIn)


@overload
def drain(
    conn: AsyncConn,
    queue: Optional[str] = None,
    *,
    max_tasks: Optional[int] = None,
    include_scheduled: bool = False,
    raise_errors: bool = False,
) -> Coroutine[Any, Any, list[Outcome]]: ...


@overload
def drain(
    conn: SyncConn,
    queue: Optional[str] = None,
    *,
    max_tasks: Optional[int] = None,
    include_scheduled: bool = False,
    raise_errors: bool = False,
) -> list[Outcome]: ...


def drain(
    conn: Conn,
    queue: Optional[str] = None,
    *,
    max_tasks: Optional[int] = None,
    include_scheduled: bool = False,
    raise_errors: bool = False,
) -> Union[list[Outcome], Coroutine[Any, Any, list[Outcome]]]:
    """Runs waiting tasks whose handlers are functions in the server: jobqueue.drain. One outcome for each attempt."""
    return run(
        conn,
        _sql.Statement(
            f"SELECT {OUTCOME_COLUMNS} FROM jobqueue.drain(queue => {{}}, max_tasks => {{}}, include_scheduled => {{}},"
            " raise_errors => {})",
            _sql.text(queue),
            _sql.Argument("integer", None) if max_tasks is None else _sql.integer(max_tasks),
            _sql.boolean(include_scheduled),
            _sql.boolean(raise_errors),
        ),
        lambda rows: [outcome(row) for row in rows],
    )


@overload
def run_tasks(
    conn: AsyncConn, app: App, queue: Optional[str] = None, *, max_tasks: Optional[int] = None
) -> Coroutine[Any, Any, list[Task]]: ...


@overload
def run_tasks(
    conn: SyncConn, app: App, queue: Optional[str] = None, *, max_tasks: Optional[int] = None
) -> list[Task]: ...


def run_tasks(
    conn: Conn, app: App, queue: Optional[str] = None, *, max_tasks: Optional[int] = None
) -> Union[list[Task], Coroutine[Any, Any, list[Task]]]:
    """Claims and runs waiting tasks of the app's types until none is left, also those that handlers add, and returns
    those that have run. An error of a handler is raised. A queue that is None stands for all queues.

    All of it is in the transaction of conn. What a handler writes is, too, if the handler uses conn.
    """
    if is_async(conn):
        return _run_tasks_async(conn, app, queue, max_tasks)
    done: list[Task] = []
    while max_tasks is None or len(done) < max_tasks:
        task = _first_task(fetch(conn, _claim(app, queue)))
        if task is None:
            break
        handler = app.handlers[task.type]
        try:
            value: Any = handler(task)
            report = _report(task, asyncio.run(value) if is_coroutine(handler) else value)
        except CONTROL as error:
            report = report_of_error(task, error)
        if not task.completed:
            fetch(conn, statement_of(report))
        done.append(task)
    return done


async def _run_tasks_async(conn: Any, app: App, queue: Optional[str], max_tasks: Optional[int]) -> list[Task]:
    done: list[Task] = []
    while max_tasks is None or len(done) < max_tasks:
        task = _first_task(await fetch_async(conn, _claim(app, queue)))
        if task is None:
            break
        handler = app.handlers[task.type]
        try:
            value: Any = handler(task)
            report = _report(task, await value if is_coroutine(handler) else value)
        except CONTROL as error:
            report = report_of_error(task, error)
        if not task.completed:
            await fetch_async(conn, statement_of(report))
        done.append(task)
    return done


def _claim(app: App, queue: Optional[str]) -> _sql.Statement:
    return _sql.Statement(
        f"SELECT {TASK_COLUMNS} FROM jobqueue.claim({{}}, types => {{}})",
        _sql.text(queue),
        _sql.text_array(app.handlers),
    )


def _first_task(rows: Rows) -> Optional[Task]:
    return Task.from_row(rows[0]) if rows else None


def _report(task: Task, value: Any) -> Report:
    report = report_of_value(task, value)
    if isinstance(report, Failed):
        raise TypeError(report.error)
    return report
