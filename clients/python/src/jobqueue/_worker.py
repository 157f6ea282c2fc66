"""The worker: claims tasks, runs their handlers, and reports how they end.

One loop (_serve) uses the connection: it reports what has ended, claims as many tasks as handlers are free, extends
leases, and sleeps until something rings. Whatever ends while a statement is under way is in the next one, so ends of
tasks come in batches when there are many.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import threading
from datetime import timedelta
from typing import Any, Optional

import psycopg

from . import _listener, _reports
from ._app import App, is_coroutine
from ._pause import GrowingDelay
from ._reports import Completed, Released, Report
from ._server import Server, connect
from ._task import Claim, Task
from ._threads import Threads
from .errors import ClaimLost

log = logging.getLogger("jobqueue")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LONGEST_EXTENSION = 30.0  # s; a handler learns within this time that its task was cancelled
_PROGRESS_INTERVAL = 0.5  # s
_CLEANUP = 1.0  # s; how long handlers have to end when the grace is over and they were told


class _Running:
    def __init__(self, task: Task) -> None:
        self.task = task
        self.is_lost = False  # the server says that the claim is not ours: there is nothing to report or to give back
        self.future: Optional[asyncio.Task[None]] = None


class Worker:
    """Runs the handlers of an app for the tasks of a queue (None: of all queues)."""

    def __init__(
        self,
        app: App,
        conninfo: str = "",
        *,
        queue: Optional[str] = "default",
        concurrency: int = 10,
        lease: timedelta = timedelta(minutes=5),
        poll_interval: timedelta = timedelta(seconds=30),
        grace: timedelta = timedelta(seconds=8),
        listen: bool = True,
    ) -> None:
        if not app.handlers:
            raise ValueError("the app has no handlers")
        if concurrency < 1:
            raise ValueError("concurrency is at least 1")
        if lease <= timedelta(0) or poll_interval <= timedelta(0) or grace < timedelta(0):
            raise ValueError("lease and poll_interval are positive, and grace is not negative")
        self.abandoned = 0  # handlers that had not ended when the worker did
        self._app = app
        self._conninfo = conninfo
        self._queue = queue
        self._concurrency = concurrency
        self._lease = lease
        self._poll_interval = poll_interval.total_seconds()
        self._extend_interval = min(lease.total_seconds() / 3, _LONGEST_EXTENSION)
        self._grace = grace.total_seconds()
        self._listen = listen
        # unique, so that after a lost connection the worker finds the tasks whose claim was not answered
        self._claimed_by = f"{socket.gethostname()[:200]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._stop_requested = threading.Event()
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._loop_thread: Optional[int] = None

    # -----------------------------------------------------------------------------------------------------------------
    # What the application calls
    # -----------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Works until stop() is called, or until SIGTERM or SIGINT comes when this is the main thread."""
        asyncio.run(self.run_async(signals=threading.current_thread() is threading.main_thread()))

    def stop(self) -> None:
        """Tells the worker to stop. May be called from any thread, and before run()."""
        self._stop_requested.set()
        self._call(self._begin_to_stop)

    async def run_async(self, *, signals: bool = False) -> None:
        """As run(), in the event loop of the caller. Handles signals only if told so."""
        loop = asyncio.get_running_loop()
        self._bell = asyncio.Event()
        self._threads = Threads()
        self._running: dict[Claim, _Running] = {}
        self._reports: list[Report] = []
        self._progress: dict[Claim, tuple[float, Optional[str]]] = {}
        self._news = True
        self._claim_unanswered = False
        self._stop_time: Optional[float] = None
        self._connecting: Optional[asyncio.Future[psycopg.AsyncConnection[Any]]] = None
        self._told = False
        self._next_poll = self._next_extension = self._next_progress = 0.0
        self.abandoned = 0
        self._loop = loop
        self._loop_thread = threading.get_ident()
        if self._stop_requested.is_set():
            self._begin_to_stop()
        previous = {number: signal.getsignal(number) for number in _SIGNALS} if signals else {}
        for number in previous:
            loop.add_signal_handler(number, self._on_signal, number)
        listener = None
        if self._listen:
            listener = loop.create_task(_listener.listen(self._conninfo, self._queue, self._on_news))
        try:
            await self._stay_connected()
        finally:
            self._loop = self._loop_thread = None
            while listener is not None and not listener.done():
                listener.cancel()  # more than once: before Python 3.12, asyncio.wait_for() may swallow it
                await asyncio.wait([listener], timeout=0.1)
            for running in self._running.values():
                self._tell(running)
            self._threads.close()
            for number, handler in previous.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)
            log.info("stopped")

    # -----------------------------------------------------------------------------------------------------------------
    # The connection
    # -----------------------------------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        delay = GrowingDelay()
        self._is_connected: Optional[bool] = None
        while not self._is_finished():
            self._connecting = asyncio.ensure_future(connect(self._conninfo))
            try:
                connection = await self._connecting
                try:
                    await self._serve(
                        Server(connection, self._queue, list(self._app.handlers), self._lease, self._claimed_by), delay
                    )
                finally:
                    await connection.close()
            except asyncio.CancelledError:
                if not self._is_finished():
                    raise
            except (psycopg.Error, OSError) as error:
                level = logging.DEBUG if self._is_connected is False else logging.WARNING
                log.log(level, "%s: connecting again", str(error).strip() or type(error).__name__)
                self._is_connected = False
                if self._is_out_of_time():
                    self._leave()
                    return
                self._next_poll = 0.0
                retry = _now() + delay.next()
                if self._stop_time is not None:
                    retry = min(retry, self._stop_time + self._grace + _CLEANUP)
                await self._sleep(retry, deaf=True)

    async def _serve(self, server: Server, delay: GrowingDelay) -> None:
        """Works on one connection, until all is done, or an error ends it."""
        if self._is_connected is False:
            held = {*self._running, *(report.claim for report in self._reports)}
            for task in await server.claimed():
                if task.claim not in held:
                    self._take(task)
            self._claim_unanswered = False
        while not self._is_finished():
            self._watch_the_grace()
            now = _now()
            if self._running and now >= self._next_extension:
                await self._extend(server)
            if self._progress and (now >= self._next_progress or self._reports):
                await self._send_progress(server)
            free = 0 if self._stop_time is not None else self._concurrency - len(self._running)
            if self._reports or (free > 0 and (self._news or now >= self._next_poll)):
                await self._exchange(server, free)
                if not self._is_connected:
                    log.info("connected: queue %s, as %s", self._queue or "any", self._claimed_by)
                    self._is_connected = True
                    delay.reset()
            else:
                with server.watched(self._bell.set):
                    await self._sleep(min(self._next_poll if free > 0 else now + 3600, self._next_chore()))

    async def _exchange(self, server: Server, free: int) -> None:
        """Reports what has ended, and claims as many tasks as there are free handlers."""
        completed = [report for report in self._reports if isinstance(report, Completed)]
        for report in self._reports[:]:
            if not isinstance(report, Completed):
                await server.report(report)
                self._reports.remove(report)
        if free > 0:
            self._news = False
            self._claim_unanswered = True
        try:
            tasks = await server.exchange(completed, free)
        except psycopg.Error as error:
            if error.sqlstate is None or not completed:
                raise
            # one of them cannot be stored, perhaps: alone, each has its own answer
            for report in completed:
                await server.report(report)
                self._reports.remove(report)
            self._news = True
            self._claim_unanswered = False
            return
        self._claim_unanswered = False
        self._reports = [report for report in self._reports if report not in completed]
        if free > 0:
            self._next_poll = _now() + self._poll_interval
            # there may be more: the size of payloads, or limits, can make a claim smaller than asked
            self._news = self._news or bool(tasks)
        for task in tasks:
            self._take(task)

    async def _extend(self, server: Server) -> None:
        # not where the handler completes the task itself: the row is locked until its transaction ends
        claims = [c for c, running in self._running.items() if not (running.is_lost or running.task.completed)]
        self._lose(await server.extend(claims) if claims else [])
        self._next_extension = _now() + self._extend_interval

    async def _send_progress(self, server: Server) -> None:
        reports = {
            claim: report
            for claim, report in self._progress.items()
            if claim not in self._running or not self._running[claim].task.completed
        }
        self._progress.clear()
        self._next_progress = _now() + _PROGRESS_INTERVAL
        self._lose(await server.progress(reports) if reports else [])

    # -----------------------------------------------------------------------------------------------------------------
    # Tasks
    # -----------------------------------------------------------------------------------------------------------------

    def _take(self, task: Task) -> None:
        """Starts the handler of a task that was claimed."""
        if self._stop_time is not None:
            self._reports.append(Released(task.claim))
            return
        if not self._running:
            self._next_extension = _now() + self._extend_interval
        running = _Running(task)
        task.on_progress = lambda fraction, message: self._call(self._note_progress, task.claim, fraction, message)
        self._running[task.claim] = running
        running.future = asyncio.get_running_loop().create_task(self._execute(running))

    async def _execute(self, running: _Running) -> None:
        task = running.task
        handler = self._app.handlers[task.type]
        report: Optional[Report]
        try:
            if task.unreadable is not None:
                raise task.unreadable
            value: Any = await (handler(task) if is_coroutine(handler) else self._threads.run(handler, task))
            report = None if task.completed else _reports.report_of_value(task, value)
        except BaseException as error:
            report = _reports.report_of_error(task, error)
            if isinstance(error, ClaimLost):
                running.is_lost = True
            elif not task.cancelled.is_set() and isinstance(report, _reports.Failed):
                log.error("task %s (%s), attempt %s failed", task.id, task.type, task.attempt, exc_info=error)
        if self._running.pop(task.claim, None) is None:
            return  # given back already
        if running.is_lost:
            log.warning("task %s (%s), attempt %s, was cancelled or lost: dropped", task.id, task.type, task.attempt)
            self._progress.pop(task.claim, None)
        elif task.cancelled.is_set():
            # told to stop: whatever the handler made of that is not the task's end. Completed by itself, it stays so.
            self._reports.append(Released(task.claim))
        elif report is not None:
            self._reports.append(report)
        self._bell.set()

    def _tell(self, running: _Running) -> None:
        """Lets the handler know that it works for nothing."""
        running.task.cancelled.set()
        if running.future is not None and is_coroutine(self._app.handlers[running.task.type]):
            running.future.cancel()

    def _lose(self, claims: list[Claim]) -> None:
        for claim in claims:
            running = self._running.get(claim)
            if running is not None and not running.task.completed:
                running.is_lost = True
                self._tell(running)

    def _note_progress(self, claim: Claim, fraction: float, message: Optional[str]) -> None:
        if claim in self._running:
            self._progress[claim] = (fraction, None if message is None else _reports.clean(message))
            self._bell.set()

    # -----------------------------------------------------------------------------------------------------------------
    # Stop
    # -----------------------------------------------------------------------------------------------------------------

    def _on_signal(self, number: int) -> None:
        log.info("%s: stopping; the same again ends the worker at once", signal.Signals(number).name)
        for again in _SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(again)
            signal.signal(again, signal.SIG_DFL)
        self._begin_to_stop()

    def _begin_to_stop(self) -> None:
        if self._stop_time is None:
            self._stop_time = _now()
            self._bell.set()
            if self._connecting is not None and self._is_finished():
                self._connecting.cancel()  # nobody needs it

    def _watch_the_grace(self) -> None:
        """Tells handlers when the grace is over, and gives back the tasks of those that do not end then."""
        if self._stop_time is None or not self._running:
            return
        if _now() >= self._stop_time + self._grace and not self._told:
            self._told = True
            for running in list(self._running.values()):
                self._tell(running)
        if _now() >= self._stop_time + self._grace + _CLEANUP:
            for claim, running in self._running.items():
                self.abandoned += 1
                if not running.is_lost:
                    self._reports.append(Released(claim))
            self._running.clear()

    def _is_finished(self) -> bool:
        busy = self._running or self._reports or self._claim_unanswered
        return self._stop_time is not None and not busy

    def _is_out_of_time(self) -> bool:
        return self._stop_time is not None and _now() >= self._stop_time + self._grace + _CLEANUP

    def _leave(self) -> None:
        """The server cannot be reached, and the grace is over."""
        claims = [report.claim for report in self._reports] + list(self._running)
        if claims:
            ids = ", ".join(str(claim.id) for claim in claims)
            log.error("left unreported: tasks %s. Somebody gets them when their leases end", ids)
        self.abandoned += len(self._running)

    # -----------------------------------------------------------------------------------------------------------------
    # Time
    # -----------------------------------------------------------------------------------------------------------------

    def _on_news(self) -> None:
        self._news = True
        self._bell.set()

    def _call(self, function: Any, *arguments: Any) -> None:
        """From any thread; at once in the thread of the loop."""
        loop = self._loop
        if threading.get_ident() == self._loop_thread:
            function(*arguments)
        elif loop is not None:
            try:
                loop.call_soon_threadsafe(function, *arguments)
            except RuntimeError:
                pass  # it has ended

    def _next_chore(self) -> float:
        """When to wake up although nothing rings."""
        times = [_now() + 3600]
        if self._running:
            times.append(self._next_extension)
            if self._stop_time is not None:
                times.append(self._stop_time + self._grace + (_CLEANUP if self._told else 0))
        if self._progress:
            times.append(self._next_progress)
        return min(times)

    async def _sleep(self, until: float, deaf: bool = False) -> None:
        """Until that time, or until the bell rings. Deaf: only the beginning of a stop ends it."""
        stopping = self._stop_time is not None
        while True:
            try:
                await asyncio.wait_for(self._bell.wait(), max(0.0, until - _now()))
            except asyncio.TimeoutError:
                return
            self._bell.clear()
            if not deaf or stopping != (self._stop_time is not None):
                return


def _now() -> float:
    return asyncio.get_running_loop().time()
