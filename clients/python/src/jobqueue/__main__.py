"""python -m jobqueue worker app:handlers"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NoReturn, Optional

from ._app import App
from ._worker import Worker


class NotLoadable(Exception):
    pass


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="jobqueue", description="Runs the handlers of an application.")
    commands = parser.add_subparsers(dest="command", required=True)
    worker = commands.add_parser(
        "worker",
        help="run a worker until SIGTERM or SIGINT",
        description="Runs a worker until SIGTERM or SIGINT. PGHOST, PGDATABASE and so on lead to the server.",
    )
    worker.add_argument("app", metavar="MODULE:APP", help="where the handlers are: app:handlers is handlers in app.py")
    worker.add_argument("--dsn", default="", help="a connection string, for what the PG variables do not say")
    worker.add_argument("--queue", default="default", help="the queue whose tasks it runs (default)")
    worker.add_argument("--all-queues", action="store_true", help="run the tasks of all queues")
    worker.add_argument("--concurrency", type=int, default=10, metavar="N", help="how many handlers run at once (10)")
    worker.add_argument("--lease", type=_seconds, default="300", metavar="SECONDS", help="length of a lease (300)")
    worker.add_argument(
        "--poll-interval", type=_seconds, default="30", metavar="SECONDS", help="how often to look unasked (30)"
    )
    worker.add_argument(
        "--grace", type=_seconds, default="8", metavar="SECONDS", help="how long handlers may end after a signal (8)"
    )
    worker.add_argument("--no-listen", action="store_true", help="do not LISTEN: only poll")
    worker.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    options = parser.parse_args(arguments)

    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        configured = Worker(
            load(options.app),
            options.dsn,
            queue=None if options.all_queues else options.queue,
            concurrency=options.concurrency,
            lease=options.lease,
            poll_interval=options.poll_interval,
            grace=options.grace,
            listen=not options.no_listen,
        )
    except (NotLoadable, ValueError) as error:
        worker.error(str(error))  # exit code 2
    asyncio.run(_work(configured))
    return 0


def load(name: str) -> App:
    """The App that a name such as app:handlers leads to."""
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise NotLoadable(f"{name!r} is not of the form MODULE:APP")
    directory = os.getcwd()
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise NotLoadable(f"there is no module {error.name!r} in {directory} or elsewhere in the path") from None
        raise NotLoadable(f"the module {module_name!r} cannot be imported: {error}") from error
    except Exception as error:
        traceback.print_exc()
        raise NotLoadable(f"the module {module_name!r} cannot be imported: {error!r}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise NotLoadable(f"{module_name!r} has no {attribute!r}")
        found = getattr(found, part)
    if not isinstance(found, App):
        raise NotLoadable(f"{name!r} is a {type(found).__name__}, not a jobqueue.App")
    return found


async def _work(worker: Worker) -> None:
    await worker.run_async(signals=True)
    if worker.abandoned:
        _leave_at_once()


def _leave_at_once() -> NoReturn:
    """Python would wait for handlers that are still running, such as those in asyncio.to_thread()."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _seconds(text: str) -> timedelta:
    return timedelta(seconds=float(text))


if __name__ == "__main__":
    sys.exit(main())
