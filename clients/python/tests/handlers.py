"""An application, for the workers that tests start from the command line."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from jobqueue import App, Task

app = App()
not_an_app = object()


@app.handler("echo")
async def echo(task: Task) -> Any:
    return {"payload": task.payload, "attempt": task.attempt}


@app.handler("wait")
async def wait(task: Task) -> Any:
    """Ends when the file that the payload names is there."""
    await asyncio.to_thread(_wait_for_file, task)
    return "waited"


@app.handler("stubborn")
def stubborn(task: Task) -> Any:
    """Does not end, whatever it is told."""
    time.sleep(3600)


@app.handler("deaf")
async def deaf(task: Task) -> Any:
    """Does not end, and takes no notice of being cancelled."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass


@app.handler("work")
def work(task: Task) -> Any:
    time.sleep(task.payload["seconds"])
    return task.payload["n"]


def _wait_for_file(task: Task) -> None:
    while not os.path.exists(task.payload) and not task.cancelled.is_set():
        time.sleep(0.05)
