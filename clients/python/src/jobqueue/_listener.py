"""The worker's second connection: LISTEN task_queue."""

from __future__ import annotations

import asyncio
import logging
from typing import Callable, Optional

import psycopg

from ._pause import GrowingDelay
from ._server import connect

log = logging.getLogger("jobqueue")


async def listen(conninfo: str, queue: Optional[str], on_news: Callable[[], None]) -> None:
    """Calls on_news when there may be tasks, until it is cancelled. While it is deaf, the worker has its poll."""
    delay = GrowingDelay()
    deaf = False
    while True:
        try:
            connection = await connect(conninfo)
            try:
                await connection.execute("LISTEN task_queue")
                if deaf:
                    log.info("listening again")
                deaf = False
                delay.reset()
                on_news()  # what has come before
                async for notification in connection.notifies():
                    # an empty payload: some queue
                    if queue is None or notification.payload in ("", queue):
                        on_news()
            finally:
                await connection.close()
        except (psycopg.Error, OSError) as error:
            if not deaf:
                log.warning("cannot listen, so only the poll finds tasks: %s", str(error).strip())
            deaf = True
            await asyncio.sleep(delay.next())
