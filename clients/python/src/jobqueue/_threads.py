"""Threads for handlers that are plain functions.

They are daemons: a handler that does not end must not keep the process from ending, and with ThreadPoolExecutor it
would. They are used again, so that what a library keeps for each thread, such as Django's connection, is there again.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import Any, Callable, Optional

Job = Callable[[], None]


class Threads:
    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Optional[Job]] = queue.SimpleQueue()
        self._threads = 0
        self._busy = 0

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(value: Any, error: Optional[BaseException]) -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

        def job() -> None:
            value: Any = None
            error: Optional[BaseException] = None
            try:
                value = function(*arguments)
            except StopIteration as stop:  # a future cannot have it
                error = RuntimeError(f"StopIteration: {stop}")
            except BaseException as any_error:  # also SystemExit: it is a failed attempt, not the end of the worker
                error = any_error
            try:
                loop.call_soon_threadsafe(settle, value, error)
            except RuntimeError:
                pass  # the worker has ended without this handler

        self._busy += 1
        if self._busy > self._threads:
            self._threads += 1
            threading.Thread(target=self._work, name=f"jobqueue-{self._threads}", daemon=True).start()
        self._jobs.put(job)
        try:
            return await future
        finally:
            self._busy -= 1

    def close(self) -> None:
        """Ends each thread as soon as it is idle."""
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads = 0

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            job()
            del job
