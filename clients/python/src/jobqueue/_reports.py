"""How an attempt has ended, and the statement that reports it."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Optional, Union

from . import _sql
from ._task import Claim, Task
from .errors import Discard, RetryIn, Snooze, sqlstate_of


@dataclass(frozen=True)
class Completed:
    claim: Claim
    result: Optional[str]  # JSON


@dataclass(frozen=True)
class Failed:
    claim: Claim
    error: str
    sqlstate: Optional[str] = None
    retry_in: Optional[timedelta] = None


@dataclass(frozen=True)
class Discarded:
    claim: Claim
    reason: str


@dataclass(frozen=True)
class Snoozed:
    claim: Claim
    delay: timedelta


@dataclass(frozen=True)
class Released:
    claim: Claim


Report = Union[Completed, Failed, Discarded, Snoozed, Released]


def report_of_value(task: Task, value: Any) -> Report:
    """The handler has returned this."""
    try:
        return Completed(task.claim, None if value is None else _sql.to_json(value))
    except (TypeError, ValueError, RecursionError) as error:
        return Failed(task.claim, f"the result is not JSON: {error}")


def report_of_error(task: Task, error: BaseException) -> Report:
    """The handler has raised this."""
    if isinstance(error, Discard):
        return Discarded(task.claim, clean(error.reason))
    if isinstance(error, Snooze):
        return Snoozed(task.claim, error.delay)
    if isinstance(error, RetryIn):
        cause = error.error if error.error is not None else error.__cause__
        if isinstance(cause, BaseException):
            return replace(_failed(task, cause), retry_in=error.delay)
        return Failed(task.claim, clean(str(cause or "to be tried again")), retry_in=error.delay)
    return _failed(task, error)


def _failed(task: Task, error: BaseException) -> Failed:
    text = "".join(traceback.format_exception_only(type(error), error)).strip()
    sqlstate = sqlstate_of(error)
    return Failed(task.claim, clean(text), sqlstate if re.fullmatch("[0-9A-Z]{5}", sqlstate or "") else None)


def statement_of(report: Report) -> _sql.Statement:
    arguments = {"id": _sql.bigint(report.claim.id), "attempt": _sql.integer(report.claim.attempt)}
    if isinstance(report, Completed):
        return _sql.call("complete", **arguments, result=_sql.Argument("jsonb", report.result))
    if isinstance(report, Discarded):
        return _sql.call("discard", **arguments, reason=_sql.text(report.reason))
    if isinstance(report, Snoozed):
        return _sql.call("snooze", **arguments, delay=_sql.interval(report.delay))
    if isinstance(report, Released):
        return _sql.call("release", **arguments)
    if report.sqlstate is not None:
        arguments["sqlstate"] = _sql.text(report.sqlstate)
    if report.retry_in is not None:
        arguments["retry_in"] = _sql.interval(report.retry_in)
    return _sql.call("fail", **arguments, error=_sql.text(report.error))


def clean(text: str) -> str:
    """Without what the server's type text cannot hold."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def plain(text: str) -> str:
    """Without what the encoding of a database may not have."""
    return text.encode("ascii", "backslashreplace").decode("ascii")
