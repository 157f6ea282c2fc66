"""The worker's connection for claims and reports: the statements, and nothing else."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Callable, Optional

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row

from . import _sql
from ._reports import Completed, Discarded, Failed, Report, plain, statement_of
from ._task import TASK_COLUMNS, Claim, Task

log = logging.getLogger("jobqueue")

# Parameters that the connection string leaves out, and the environment variables that give them, too. A server that
# vanishes without a word is noticed within a minute, by a query as by an idle connection.
_DEFAULTS = {
    "target_session_attrs": ("read-write", "PGTARGETSESSIONATTRS"),
    "connect_timeout": ("10", "PGCONNECT_TIMEOUT"),
    "client_encoding": ("utf8", ""),
    "keepalives_idle": ("30", ""),
    "keepalives_interval": ("10", ""),
    "keepalives_count": ("3", ""),
    "tcp_user_timeout": ("60000", ""),
    "fallback_application_name": ("jobqueue", ""),
}


async def connect(conninfo: str) -> psycopg.AsyncConnection[Any]:
    """A connection to the primary. Without prepared statements, so that a pooler in transaction mode may be between."""
    given = conninfo_to_dict(conninfo)
    defaults: dict[str, Any] = {
        name: value
        for name, (value, variable) in _DEFAULTS.items()
        if name not in given and variable not in os.environ
    }
    return await psycopg.AsyncConnection.connect(
        conninfo, autocommit=True, prepare_threshold=None, row_factory=tuple_row, **defaults
    )


class Server:
    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any],
        queue: Optional[str],
        types: Sequence[str],
        lease: timedelta,
        claimed_by: str,
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._types = types
        self._lease = lease
        self._claimed_by = claimed_by

    async def exchange(self, completed: Sequence[Completed], max_tasks: int) -> list[Task]:
        """Reports completed tasks and claims others, in one round trip."""
        completed = sorted(completed, key=lambda report: report.claim)
        ended = (
            _sql.bigint_array(report.claim.id for report in completed),
            _sql.integer_array(report.claim.attempt for report in completed),
            _sql.json_array(report.result for report in completed),
        )
        if max_tasks == 0:
            await self._run(_sql.Statement("SELECT jobqueue.complete_many({}, {}, {})", *ended))
            return []
        return _tasks(
            await self._run(
                _sql.Statement(
                    f"SELECT {TASK_COLUMNS} FROM jobqueue.complete_and_claim({{}}, {{}}, {{}}, queue => {{}},"
                    " max_tasks => {}, lease => {}, types => {}, claimed_by => {})",
                    *ended,
                    _sql.text(self._queue),
                    _sql.integer(max_tasks),
                    _sql.interval(self._lease),
                    _sql.text_array(self._types),
                    _sql.text(self._claimed_by),
                )
            )
        )

    async def report(self, report: Report) -> None:
        """Reports the end of one task. What the server refuses to store, such as a result with the character \\u0000,
        fails the attempt instead. A report that is refused for ever is dropped, so that it does not stop all others."""
        try:
            await self._run(statement_of(report))
        except psycopg.Error as error:
            if _may_pass(error):
                raise
            log.error("task %s: the server refuses its report: %s", report.claim.id, error)
            try:
                await self._run(statement_of(_acceptable(report, error)))
            except psycopg.Error as second:
                if _may_pass(second):
                    raise
                log.error("task %s: left, until its lease ends: %s", report.claim.id, second)

    async def extend(self, claims: Iterable[Claim]) -> list[Claim]:
        """Extends the leases; the claims that are lost."""
        ids, attempts = _columns(claims)
        return _claims(
            await self._run(
                _sql.Statement(
                    "SELECT c.id, c.attempt FROM unnest({}, {}) AS c(id, attempt)"
                    " WHERE NOT jobqueue.extend_lease(c.id, c.attempt, {})",
                    ids,
                    attempts,
                    _sql.interval(self._lease),
                )
            )
        )

    async def progress(self, reports: Mapping[Claim, tuple[float, Optional[str]]]) -> list[Claim]:
        """Reports progress; the claims that are lost."""
        try:
            return await self._progress(reports)
        except psycopg.Error as error:
            if _may_pass(error):
                raise
            return await self._progress(
                {claim: (fraction, plain(message or "")) for claim, (fraction, message) in reports.items()}
            )

    async def _progress(self, reports: Mapping[Claim, tuple[float, Optional[str]]]) -> list[Claim]:
        ids, attempts = _columns(reports)
        ordered = [reports[claim] for claim in sorted(reports)]
        return _claims(
            await self._run(
                _sql.Statement(
                    "SELECT c.id, c.attempt FROM unnest({}, {}, {}, {}) AS c(id, attempt, fraction, message)"
                    " WHERE NOT jobqueue.set_progress(c.id, c.attempt, c.fraction, c.message)",
                    ids,
                    attempts,
                    _sql.Argument("real[]", "{" + ",".join(repr(float(fraction)) for fraction, _ in ordered) + "}"),
                    _sql.text_array(message for _, message in ordered),
                )
            )
        )

    async def claimed(self) -> list[Task]:
        """All tasks that this worker holds: among them those of a claim whose answer was lost with its connection."""
        return _tasks(
            await self._run(
                _sql.Statement(
                    f"SELECT {TASK_COLUMNS} FROM jobqueue.tasks"
                    " WHERE status = 'processing' AND lease_expires_at < 'infinity' AND claimed_by = {}",
                    _sql.text(self._claimed_by),
                )
            )
        )

    @contextmanager
    def watched(self, on_input: Callable[[], None]) -> Iterator[None]:
        """While the connection is idle: what comes is its end, mostly. Raises an error then, rather than at the next
        statement."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._connection.fileno(), on_input)
        try:
            yield
        finally:
            loop.remove_reader(self._connection.fileno())
        self._connection.pgconn.consume_input()

    async def _run(self, statement: _sql.Statement) -> list[Any]:
        text: Any = statement.render(lambda n: "%s")
        return await (await self._connection.execute(text, statement.values)).fetchall()


def _may_pass(error: psycopg.Error) -> bool:
    """Whether the same statement may succeed later: it was the connection, the server, or the state it is in."""
    return error.sqlstate is None or error.sqlstate[:2] in {"08", "25", "40", "53", "55", "57", "58", "XX"}


def _acceptable(report: Report, error: psycopg.Error) -> Report:
    if isinstance(report, Failed):
        return Failed(report.claim, plain(report.error))
    if isinstance(report, Discarded):
        return Discarded(report.claim, plain(report.reason))
    return Failed(report.claim, plain(f"the server refuses the report: {error}"), error.sqlstate)


def _columns(claims: Iterable[Claim]) -> tuple[_sql.Argument, _sql.Argument]:
    # sorted, so that two sessions lock rows in the same order
    ordered = sorted(claims)
    return _sql.bigint_array(c.id for c in ordered), _sql.integer_array(c.attempt for c in ordered)


def _claims(rows: Iterable[Sequence[Any]]) -> list[Claim]:
    return [Claim(int(id), int(attempt)) for id, attempt in rows]


def _tasks(rows: Iterable[Sequence[Any]]) -> list[Task]:
    return [Task.from_row(row) for row in rows]
