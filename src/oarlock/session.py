"""Session: commands that are executed once, however often they have to be sent (dissertation 6.3).

A plain `submit` tries until its time runs out; if its outcome is unknown then, trying again may execute the
command twice. Within a session it may not: the cluster remembers the outcome of each command until the client
has it, and answers a repeated one with it. So a session repeats by itself, through leader changes and lost
messages, and can be taken up again at another member: by its id and the serial number to go on with.

A session that is not used for its timeout, by the cluster's clock, is forgotten. Whether its last commands
were executed cannot be told then, so that is an error and never a silent second execution.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from oarlock.errors import (
    Busy,
    OutcomeUnknown,
    RequestError,
    RequestTimeout,
    SessionExpired,
    Stopped,
    UsageError,
)
from oarlock.machine import (
    OUTSTANDING_MAX,
    StateMachine,
    encode_call,
    encode_close,
    encode_keep_alive,
)

if TYPE_CHECKING:
    from oarlock.embed import Replica

M = TypeVar("M", bound=StateMachine)
R = TypeVar("R")
P = ParamSpec("P")

_PAUSE = 0.05
_PAUSE_MAX = 1.0
_TRY_SECONDS = 2.0
"""One try may take that long before the command is sent again."""


class Session(Generic[M]):
    """A client session, made by `Replica.session` or `Replica.resume_session`: `close` it, or ``async with``.

    It keeps itself alive in the background while its replica runs. Any number of commands may be on their
    way at once.

    Attributes:
        id: names it to the cluster, for `Replica.resume_session`.
        next_serial: the serial number that the next command will have.
    """

    def __init__(
        self, replica: Replica[M], id_: int, next_serial: int, timeout: float, patience: float
    ) -> None:
        self.id = id_
        self.next_serial = next_serial
        self._replica = replica
        self._patience = patience
        self._outstanding: dict[int, None] = {}
        """Serials without an answer, oldest first."""
        self._places = asyncio.Semaphore(OUTSTANDING_MAX - 1)
        self._used = True
        """Since the last look of the task that keeps it alive."""
        self._ended: RequestError | None = None
        self._keeping = asyncio.get_running_loop().create_task(self._keep_alive(timeout / 3))

    async def submit(
        self, command: Callable[Concatenate[M, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run a command on every member, exactly once: ``await session.submit(Counter.add, 5)``.

        It is sent again, as the same command, until there is an answer or the session's `request_timeout`
        runs out.

        Raises:
            CommandFailed: the method raised.
            RequestTimeout: no answer in time; `outcome_unknown` says if it may still be applied.
            SessionExpired: the session was forgotten. If it raises where a try before had no answer, that try
                may have been executed.
            Stopped: this member stopped; `outcome_unknown` as above. Take the session up elsewhere.
            UsageError: it is not a command of this machine, or an argument or the result does not fit.
        """
        self._replica._check_owned(command)
        encode_call(command, args, kwargs)  # a mistake takes no serial number
        deadline = asyncio.get_running_loop().time() + self._patience
        try:
            await asyncio.wait_for(self._places.acquire(), self._patience)
        except TimeoutError:
            raise RequestTimeout(self._patience, outcome_unknown=False) from None
        serial = self.next_serial
        self.next_serial += 1
        self._outstanding[serial] = None

        def encode() -> bytes:
            lowest = next(iter(self._outstanding))
            return encode_call(command, args, kwargs, session=self.id, serial=serial, lowest=lowest)

        try:
            return cast(R, await self._until_answered(encode, deadline))
        finally:
            del self._outstanding[serial]
            self._places.release()

    async def close(self) -> None:
        """End it: the cluster need not remember it any more. Idempotent; does not fail without a leader."""
        await self.leave()
        if self._ended is None:
            self._ended = SessionExpired(f"session {self.id} was closed")
            with contextlib.suppress(RequestError):
                await self._send(encode_close(self.id), self._patience)

    async def leave(self) -> None:
        """Leave it open, to be taken up elsewhere before its timeout. Idempotent."""
        self._replica._sessions.pop(self, None)
        self._keeping.cancel()
        await asyncio.wait([self._keeping])

    async def __aenter__(self) -> Session[M]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ── inside ─────────────────────────────────────────────────────────────────────────────────────

    async def _until_answered(self, encode: Callable[[], bytes], deadline: float) -> Any:
        in_doubt = False
        pause = _PAUSE
        while True:
            if self._ended is not None:
                raise type(self._ended)(str(self._ended))
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0.0:
                raise RequestTimeout(self._patience, in_doubt)
            try:
                self._used = True
                return await self._send(encode(), min(left, max(_TRY_SECONDS, self._patience / 5)))
            except RequestTimeout as error:
                in_doubt = in_doubt or error.outcome_unknown
            except OutcomeUnknown:
                in_doubt = True
            except Stopped as error:
                if in_doubt and not error.outcome_unknown:
                    raise Stopped("the replica has stopped", outcome_unknown=True) from None
                raise
            except SessionExpired as error:
                self._ended = error
                raise
            except Busy:
                if left <= pause:
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, _PAUSE_MAX)

    def _send(self, data: bytes, timeout: float) -> Awaitable[Any]:
        return self._replica._running().submit(data, request=True, timeout=timeout)

    async def _keep_alive(self, interval: float) -> None:
        """Use it at least every `interval` seconds, unless somebody does."""
        while self._ended is None:
            await asyncio.sleep(interval)
            if self._used:
                self._used = False
                continue
            try:
                await self._send(encode_keep_alive(self.id), interval)
            except SessionExpired as error:
                self._ended = error
            except Stopped:
                return
            except RequestError:
                continue  # no leader, say: then the cluster's clock does not run either


def check_session_numbers(id_: int, next_serial: int) -> None:
    """Raises `UsageError`."""
    if id_ < 1 or next_serial < 1:
        raise UsageError(f"a session's id and its serial numbers count from 1, not {id_} and {next_serial}")
