"""Calls of SQL functions, and how Python's values become arguments.

Every value is sent as text, and the statement casts it. So a value needs nothing of the driver: psycopg, and whatever
driver SQLAlchemy or Django use, pass it unchanged, and no driver turns a JSON array into an SQL array.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Callable, Optional


@dataclass(frozen=True)
class Argument:
    """A value as text, or None, and its type in SQL."""

    sql_type: str
    text: Optional[str]


class Statement:
    """SQL with arguments. In the text, {} stands for an argument."""

    def __init__(self, text: str, *arguments: Argument) -> None:
        self._text = text
        self._arguments = arguments

    def render(self, placeholder: Callable[[int], str]) -> str:
        """The SQL text, in which the driver's placeholders stand for the values."""
        casts = (f"CAST({placeholder(n)} AS {argument.sql_type})" for n, argument in enumerate(self._arguments))
        return self._text.format(*casts)

    @property
    def values(self) -> list[Optional[str]]:
        return [argument.text for argument in self._arguments]


def call(function: str, **arguments: Argument) -> Statement:
    """SELECT * FROM jobqueue.function(name => value, ...)"""
    named = ", ".join(f"{name} => {{}}" for name in arguments)
    return Statement(f"SELECT * FROM jobqueue.{function}({named})", *arguments.values())


def text(value: Optional[str]) -> Argument:
    return Argument("text", value)


def bigint(value: int) -> Argument:
    return Argument("bigint", str(operator.index(value)))


def integer(value: int) -> Argument:
    return Argument("integer", str(operator.index(value)))


def real(value: float) -> Argument:
    return Argument("real", repr(float(value)))


def boolean(value: bool) -> Argument:
    return Argument("boolean", "true" if value else "false")


def interval(value: timedelta) -> Argument:
    # not in days: a day of an interval is as long as a day of the calendar, a day of a timedelta has 24 hours
    return Argument("interval", f"{value // timedelta(microseconds=1)} microseconds")


def timestamptz(value: datetime) -> Argument:
    if value.tzinfo is None:
        raise ValueError("a time needs a time zone, as in datetime.now(timezone.utc)")
    return Argument("timestamptz", value.isoformat())


def jsonb(value: Any) -> Argument:
    return Argument("jsonb", to_json(value))


def to_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def bigint_array(values: Iterable[int]) -> Argument:
    return Argument("bigint[]", _array(str(operator.index(value)) for value in values))


def integer_array(values: Iterable[int]) -> Argument:
    return Argument("integer[]", _array(str(operator.index(value)) for value in values))


def text_array(values: Iterable[Optional[str]]) -> Argument:
    return Argument("text[]", _array(values))


def json_array(documents: Iterable[Optional[str]]) -> Argument:
    """An array of JSON that is text already; None is an SQL null."""
    return Argument("jsonb[]", _array(documents))


def _array(values: Iterable[Optional[str]]) -> str:
    def element(value: Optional[str]) -> str:
        if value is None:
            return "NULL"
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    return "{" + ",".join(map(element, values)) + "}"
