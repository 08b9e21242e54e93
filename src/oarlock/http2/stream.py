"""One stream, as its application sees it (RFC 9113, section 5.1).

An application derives from `Stream` and overrides the ``on_...`` methods, which the connection calls as
frames arrive; it answers with the other methods. There is no event object in between: one request is one
object.

States are two flags, one per direction, plus `closed`; "idle" and "reserved" streams have no object at all::

    remote_closed   the peer has sent END_STREAM (half-closed (remote))
    local_closed    we have *asked* to send END_STREAM; it may still be queued behind flow control
    closed          nothing more may be sent or will be called back; the connection has forgotten the stream

Most fields have their start value in the class, so that the common stream - one request, one response - sets
only what differs."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from oarlock.http2.errors import ErrorCode
from oarlock.http2.hpack import HeaderBlock

if TYPE_CHECKING:
    from oarlock.http2.connection import Connection

CONNECTION_LOST: Final = -1
"""The ``code`` of `Stream.on_closed` when not the stream was reset, but its connection is gone."""


class Stream:
    """One request and its response. Every method is safe on a closed stream: it then does nothing."""

    remote_closed: bool = False
    local_closed: bool = False
    closed: bool = False

    responded: bool = False
    """Client: the final response headers have arrived; what comes next are trailers."""

    fast_data: bool = True
    """DATA may go the short way: the peer's side is open and no content-length has to be checked."""

    length_left: int | None = None
    """Bytes of body still to come by content-length; None if it was not declared."""

    recv_used: int = 0
    """How much of the receive window the peer has used: received and not yet given back."""

    recv_unreported: int = 0
    """Consumed bytes that no WINDOW_UPDATE has told the peer about. Invariant: at most `recv_used`."""

    window_delta: int = 0
    """Send window minus the peer's SETTINGS_INITIAL_WINDOW_SIZE, so that a change of that setting moves the
    window of every open stream without visiting it (section 6.9.2)."""

    queue: deque[bytes] | None = None
    """Body bytes that flow control or a slow transport holds back."""

    queue_offset: int = 0
    """How much of the first queued piece is already sent."""

    queued: int = 0
    """Bytes in `queue` still to be sent."""

    full: bool = False
    """The queue has reached `Limits.stream_output` and not fallen to half of it since."""

    queued_end: bytes | None = None
    """What follows the queue: a block of trailers, or empty for a bare END_STREAM."""

    drained_since_sweep: int = 0
    """Bytes of the queue sent since the last stall check."""

    stalled_sweeps: int = 0
    """Stall checks in a row without enough progress."""

    long_lived: bool = False
    """The request may stay unfinished for as long as it likes (streaming calls); otherwise
    `Limits.request_timeout`."""

    age_sweeps: int = 0
    """Stall checks that this stream has seen with its request unfinished."""

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self.connection = connection
        self.id = stream_id

    # What the peer did: overridden by the application.

    def on_headers(self, block: HeaderBlock, end: bool) -> None:
        """Response headers (client), or trailers (both). A server's request headers are in its
        constructor."""

    def on_data(self, data: bytes, end: bool) -> None:
        """Body bytes. They stay on the peer's account until `consume` gives them back."""

    def on_closed(self, code: int, reason: str, *, processed: bool) -> None:
        """The stream ended before its time: reset by either side, or the connection is gone.

        ``processed`` is False if the peer promises not to have acted on the request, so that a retry is safe.
        """

    def on_writable(self) -> None:
        """The queue has fallen below half of the bound at which `writable` turned False."""

    # What we do.

    def send_headers(self, block: bytes, *, end: bool = False) -> None:
        """Send an encoded block (headers, or trailers with ``end``) behind whatever is queued."""
        if not self.closed and not self.local_closed:
            self.connection.output.headers(self, block, end)

    def send_data(self, data: bytes, *, end: bool = False) -> None:
        """Send body bytes as flow control permits; what it does not permit is queued (bounded by the
        limits)."""
        if not self.closed and not self.local_closed:
            self.connection.output.data(self, data, end)

    def reset(self, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """Abandon the stream. `on_closed` is not called."""
        if not self.closed:
            self.connection.reset_stream(self, code)

    def consume(self, size: int) -> None:
        """Give ``size`` received bytes back to the peer's window; told in batches of half a window."""
        if self.closed or self.remote_closed:
            return
        self.recv_unreported += size
        if self.recv_unreported >= self.connection.window_batch:
            self.connection.replenish(self)

    @property
    def writable(self) -> bool:
        """Whether an unhurried sender may send more now; if not, it waits for `on_writable`."""
        return not self.full
