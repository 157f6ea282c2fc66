"""Enqueue tasks, and run workers, for jobqueue, the job queue inside PostgreSQL."""

from ._app import App
from ._enqueue import Enqueued, Outcome, enqueue, enqueue_many, enqueue_unique, wait_for
from ._task import Task
from ._worker import Worker
from .errors import ClaimLost, Discard, RetryIn, Snooze

__all__ = [
    "App",
    "ClaimLost",
    "Discard",
    "Enqueued",
    "Outcome",
    "RetryIn",
    "Snooze",
    "Task",
    "Worker",
    "enqueue",
    "enqueue_many",
    "enqueue_unique",
    "wait_for",
]
