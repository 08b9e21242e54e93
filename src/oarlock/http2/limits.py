"""Every bound of the HTTP/2 layer, with the reason for its value.

A peer may ask for anything; what it can make us *hold* or *do* is bounded here. The sizes are chosen so that
a healthy client never meets one (1,000 concurrent requests on one connection, messages of 2 MiB) and a
hostile one costs at most a few tens of MiB and a second of patience."""

from __future__ import annotations

from dataclasses import dataclass

from oarlock.errors import UsageError
from oarlock.http2.frames import DEFAULT_FRAME_SIZE, MAX_WINDOW


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one connection. Sizes are bytes, times are seconds.

    Raises:
        UsageError: two values contradict each other.
    """

    max_concurrent_streams: int = 2048
    """Streams a client may hold open (SETTINGS_MAX_CONCURRENT_STREAMS). Twice the 1,000 that we promise to
    serve; Go's server has no bound and nghttp2's is 100. One idle stream costs about 0.5 KiB."""

    stream_window: int = 256 * 1024
    """Receive window of one stream (SETTINGS_INITIAL_WINDOW_SIZE). Over a 1 Gbit/s path of 2 ms it never runs
    dry, and it is all that one unread stream can make us hold."""

    connection_window: int = 16 * 1024 * 1024
    """Receive window of the connection. Given back as bytes arrive, so that a stream nobody reads cannot
    starve its neighbours; `max_receive_buffer` bounds the sum."""

    max_receive_buffer: int = 32 * 1024 * 1024
    """Received bytes of all streams together that nobody has consumed yet: unfinished messages and unread
    ones. Sixteen of the largest messages at the same time; the stream that goes beyond is reset."""

    max_header_list: int = 32 * 1024
    """Decoded header list, counted as RFC 9113 6.5.2 does (name + value + 32 each), told to the peer as
    SETTINGS_MAX_HEADER_LIST_SIZE. Tokens of several KiB fit; beyond it the stream is reset."""

    max_header_block: int = 64 * 1024
    """Encoded header block, all CONTINUATION frames together. Twice the decoded limit: what is larger was not
    made by a sane encoder. Beyond it the connection ends, since skipping would lose the HPACK state."""

    max_header_frames: int = 32
    """Frames of one header block. 64 KiB need five of default size; the CONTINUATION flood sends them without
    end."""

    header_table: int = 4096
    """HPACK dynamic table of the peer's encoder: RFC 7541's default, about a dozen gRPC headers several times
    over."""

    remembered_blocks: int = 512
    """Header blocks kept decoded (see `oarlock.http2.hpack`), and the size of the largest one kept below. A
    client uses a block per method; ours and Go's use about ten."""

    remembered_block_size: int = 1024
    """Longer blocks are decoded anew each time; bounds the cache to 0.5 MiB of keys per connection."""

    output_batch: int = 256 * 1024
    """Bytes written to the transport at once. More is queued by stream, so that control frames and other
    streams overtake it."""

    soft_output: int = 16 * 1024 * 1024
    """Queued output of one connection beyond which new streams are refused (REFUSED_STREAM: safe to
    retry)."""

    max_output: int = 64 * 1024 * 1024
    """Queued output beyond which the connection is cut: answers to 2,048 requests whose reader has
    stopped."""

    stream_output: int = 64 * 1024
    """Queued output of one stream at which an asynchronous sender waits: one default window of most
    clients."""

    max_unsent: int = 4 * 1024 * 1024
    """Bytes handed to a transport that no longer drains: a peer that asks (PING, SETTINGS, refused streams)
    but never reads. The batch plus many thousand control frames; beyond it the connection is cut."""

    max_strikes: int = 10_000
    """Frames that cost us work and bring nothing (PING, SETTINGS, PRIORITY, empty DATA, window updates,
    refused streams, ...) over what `strikes_per_second` and useful traffic pay off. A burst of ten thousand
    costs about 20 ms."""

    strikes_per_second: int = 1_000
    """How quickly strikes are forgotten."""

    strikes_per_stream: int = 8
    """Strikes that one properly completed stream pays off: gRPC libraries send a PING and two window updates
    with nearly every batch, to measure the bandwidth-delay product."""

    max_resets: int = 3_000
    """Streams a client may cancel in a burst (rapid reset, CVE-2023-44487): three times the concurrent
    requests we promise, all timing out together."""

    resets_per_second: int = 300
    """How quickly resets are forgotten; a completed stream pays one off as well."""

    remembered_resets: int = 1_024
    """Streams that we reset and whose late frames are ignored silently (RFC 9113 5.1). Older ones get
    RST_STREAM again."""

    handshake_timeout: float = 10.0
    """From accepting the connection to its first complete HTTP/2 SETTINGS or HTTP/1.1 request head."""

    partial_timeout: float = 30.0
    """A frame or header block that has begun has to be complete by then."""

    request_timeout: float = 60.0
    """A unary request has to be received completely by then, whatever its own deadline says."""

    stall_timeout: float = 60.0
    """Period in which a stream with queued output has to take `stall_bytes`, or all it has; then it is
    reset."""

    stall_bytes: int = 16 * 1024
    """See `stall_timeout`. A reader that opens its window byte by byte makes progress, but not enough."""

    keepalive_interval: float = 30.0
    """Silence after which the server asks with a PING whether anybody is still there."""

    keepalive_timeout: float = 15.0
    """Time for any byte to come back after that PING. A vanished client is gone from memory in 45 s."""

    idle_timeout: float = 3600.0
    """A connection without streams is closed gracefully after this time; clients reconnect on their own."""

    http1_idle_timeout: float = 60.0
    """The same for HTTP/1.1 keep-alive."""

    max_http1_head: int = 16 * 1024
    """Request line and headers of an HTTP/1.1 request; nginx and Apache allow 8 KiB per line."""

    close_timeout: float = 5.0
    """Time for the last bytes of a closed connection to be read by the peer; then it is aborted."""

    tick: float = 1.0
    """How often the times above are looked at. Tests with short bounds take less."""

    max_held: int = 512 * 1024 * 1024
    """What all connections of a server may hold together, in queued output and unconsumed input. Looked at on
    every tick; beyond it the connections that hold most are cut. Eight of the worst, or a large fleet of slow
    readers."""

    max_connections: int = 10_000
    """Connections of one server. The next one is closed at once. Each costs about 10 KiB when idle."""

    def __post_init__(self) -> None:
        if not DEFAULT_FRAME_SIZE <= self.stream_window <= MAX_WINDOW:
            raise UsageError(
                f"stream_window must be {DEFAULT_FRAME_SIZE} to {MAX_WINDOW}, is {self.stream_window}"
            )
        if not 65_535 <= self.connection_window <= MAX_WINDOW:
            raise UsageError(f"connection_window must be 65535 to {MAX_WINDOW}, is {self.connection_window}")
        if self.max_header_block < self.max_header_list:
            raise UsageError("max_header_block must not be smaller than max_header_list")
        if self.soft_output > self.max_output:
            raise UsageError("soft_output must not exceed max_output")
