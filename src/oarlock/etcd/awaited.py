"""Calls that are answered by a coroutine: those that are too rare to be worth callbacks.

Changing the members or moving the leader takes a few rounds between the members, and happens a few times in
a cluster's life. A task costs nothing there, and reads better.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from oarlock.etcd.errors import MALFORMED, status_of
from oarlock.grpc import Call, RpcError, StatusCode

Request = TypeVar("Request", bound=Message)
Answer = Coroutine[Any, Any, bytes]


class Awaited:
    """Runs the coroutines of one service, and keeps them alive while they run."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[bytes], None] = {}

    def unary(self, answer: Callable[[bytes], Answer]) -> Callable[[Call, bytes], None]:
        """A handler that replies with what `answer(message)` returns, or fails with what it raises.

        A client that goes away does not stop it: what it has begun may be decided already.
        """
        return partial(self._start, answer)

    def _start(self, answer: Callable[[bytes], Answer], call: Call, message: bytes) -> None:
        task = asyncio.get_running_loop().create_task(answer(message))
        self._tasks[task] = None
        task.add_done_callback(partial(self._done, call))

    def _done(self, call: Call, task: asyncio.Task[bytes]) -> None:
        self._tasks.pop(task)
        if task.cancelled():
            return call.fail(StatusCode.CANCELLED, "the server stops")
        error = task.exception()
        if error is None:
            call.reply(task.result())
        elif isinstance(error, RpcError):
            call.fail(error.code, error.message)
        else:
            call.fail(*status_of(error))


def parsed(kind: type[Request], message: bytes) -> Request:
    """The request in `message`. Raises `RpcError` if there is none."""
    try:
        return kind.FromString(message)
    except DecodeError:
        raise RpcError(*MALFORMED) from None
