"""The handlers of an application, by type of task."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine, Mapping
from types import MappingProxyType
from typing import Any, Callable, TypeVar, Union

from ._task import Task

Handler = Union[Callable[[Task], Any], Callable[[Task], Coroutine[Any, Any, Any]]]
H = TypeVar("H", bound=Callable[[Task], Any])


class App:
    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    @property
    def handlers(self) -> Mapping[str, Handler]:
        return MappingProxyType(self._handlers)

    def handler(self, type: str) -> Callable[[H], H]:
        """Decorates the handler of a type: a coroutine, which runs in the worker's event loop, or a plain function,
        which runs in a thread. What it returns becomes the result of the task, as JSON."""

        def register(function: H) -> H:
            if type in self._handlers:
                raise ValueError(f"the type {type!r} has a handler already")
            self._handlers[type] = function
            return function

        return register


def is_coroutine(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))
