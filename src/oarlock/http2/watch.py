"""Is the peer alive, and does it make progress? The clock of a connection.

Half-open connections, requests that arrive byte by byte and readers that never read look alike from far:
nothing ends. Each gets its own bound (`Limits` has them with reasons):

- the handshake, and any frame or header block once begun, has to be completed;
- silence is answered with a PING, and silence after that with the end;
- a unary request has to arrive, and queued output has to be taken, at a minimal pace: streams are visited
  four times per period ("sweep"), which needs no timer per stream;
- a connection that carries nothing for an hour is closed gracefully.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from oarlock.http2 import frames
from oarlock.http2.errors import ConnectionFault, ErrorCode
from oarlock.http2.limits import Limits

if TYPE_CHECKING:
    from oarlock.http2.connection import Connection
    from oarlock.http2.stream import Stream

_SWEEPS_PER_PERIOD: Final = 4
_KEEPALIVE: Final = b"oarlock?"


class Watch:
    """Time-dependent state of one connection. The connection sets `heard` when bytes arrive, `completed` when
    a frame is complete."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.heard = False
        self.completed = False
        self._now: float | None = None
        self._begun = 0.0
        self._last_heard = 0.0
        self._ping_sent: float | None = None
        self._partial_since: float | None = None
        self._idle_since: float | None = None
        self._next_sweep = 0.0

    def advance(self, now: float) -> float:
        """Take the time; returns the seconds since the last call."""
        if self._now is None:
            self._begun = self._last_heard = now
            self._next_sweep = now + self._limits.stall_timeout / _SWEEPS_PER_PERIOD
            self._now = now
        elapsed = now - self._now
        self._now = now
        if self.heard:
            self.heard = False
            self._last_heard = now
            self._ping_sent = None
        return elapsed

    def check(self, connection: Connection, now: float, *, partial: bool) -> None:
        """Apply every bound.

        Raises:
            ConnectionFault: one is exceeded that concerns the connection as a whole.
        """
        limits = self._limits
        if not connection.ready:
            if now - self._begun > limits.handshake_timeout:
                raise ConnectionFault(ErrorCode.SETTINGS_TIMEOUT, "no complete preface in time")
            return
        self._check_partial(now, partial)
        self._check_silence(connection, now)
        if now >= self._next_sweep:
            self._next_sweep = now + limits.stall_timeout / _SWEEPS_PER_PERIOD
            for stream in list(connection.streams.values()):
                self._sweep(connection, stream)
        self._check_idle(connection, now)

    def _check_partial(self, now: float, partial: bool) -> None:
        if self.completed or not partial:
            self.completed = False
            self._partial_since = None
        elif self._partial_since is None:
            self._partial_since = now
        elif now - self._partial_since > self._limits.partial_timeout:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "frame or header block not completed in time")

    def _check_silence(self, connection: Connection, now: float) -> None:
        if self._ping_sent is not None:
            if now - self._ping_sent > self._limits.keepalive_timeout:
                raise ConnectionFault(ErrorCode.NO_ERROR, "no answer to a keepalive PING")
        elif now - self._last_heard >= self._limits.keepalive_interval:
            self._ping_sent = now
            connection.output.write(frames.ping(_KEEPALIVE))

    def _check_idle(self, connection: Connection, now: float) -> None:
        if connection.streams or not connection.is_server:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since > self._limits.idle_timeout:
            raise ConnectionFault(ErrorCode.NO_ERROR, "idle")

    def _sweep(self, connection: Connection, stream: Stream) -> None:
        """One look at a stream: has its reader taken enough, has its unary request arrived?"""
        limits = self._limits
        if stream.queued and stream.drained_since_sweep < limits.stall_bytes // _SWEEPS_PER_PERIOD:
            stream.stalled_sweeps += 1
        else:
            stream.stalled_sweeps = 0
        stream.drained_since_sweep = 0
        if stream.stalled_sweeps >= _SWEEPS_PER_PERIOD:
            _give_up(connection, stream, "the reader of this stream has stalled")
        elif connection.is_server and not stream.long_lived and not stream.remote_closed:
            stream.age_sweeps += 1
            if stream.age_sweeps * limits.stall_timeout / _SWEEPS_PER_PERIOD > limits.request_timeout:
                _give_up(connection, stream, "the request was not completed in time")


def _give_up(connection: Connection, stream: Stream, reason: str) -> None:
    connection.reset_stream(stream, ErrorCode.ENHANCE_YOUR_CALM)
    stream.on_closed(ErrorCode.ENHANCE_YOUR_CALM, reason, processed=True)
