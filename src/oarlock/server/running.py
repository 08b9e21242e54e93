"""`oarlock serve`: a member as a process, from its start to its end, whatever ends it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from oarlock.server.config import Settings
from oarlock.server.server import Server
from oarlock.storage.files import Files

log = logging.getLogger("oarlock.server")

GC_THRESHOLDS = (50_000, 25, 100)
"""Requests make no reference cycles, so the collector finds nothing: run it seldom."""

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def serve(settings: Settings, files: Files | None = None) -> int:
    """Run a member until SIGTERM, SIGINT, its removal from the cluster, or a failure that it cannot outlive.

    Args:
        files: see `Server`.

    Returns:
        the exit code: 0 after a signal or a removal, 1 after a failure.
    """
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[Any] = loop.create_future()  # its result: the signal that came

    def ask_to_stop(number: int) -> None:
        if not stop.done():
            stop.set_result(signal.Signals(number))

    def on_signal(number: int, _: object) -> None:
        loop.call_soon_threadsafe(ask_to_stop, number)

    # Not the loop's own handlers: those go with the loop, and a second signal would then kill the process.
    for number in _STOP_SIGNALS:
        signal.signal(number, on_signal)
    server = Server(settings, files)
    await server.start()
    gc.collect()
    gc.freeze()  # what start-up made stays: no need to look at it again
    gc.set_threshold(*GC_THRESHOLDS)
    failed: asyncio.Future[Any] = server.replica.failed
    removed: asyncio.Future[Any] = server.replica.removed
    await asyncio.wait([stop, failed, removed], return_when=asyncio.FIRST_COMPLETED)
    if failed.done():
        # The replica has said why. What the disk holds is unknown: nothing more is written, least of all a
        # mark that all is well.
        return 1
    if stop.done():
        log.info("stopping on %s", stop.result().name)
    else:
        # Exit code 0: a supervisor that starts what failed must not start this again.
        log.warning(
            "this member, %s (%x), is not in the cluster any more: %s; it stops, and is not to be started "
            "again. Its data in %s is of no use any more. To bring this server back, delete the data and add "
            "it as a new member: `oarlock member add`",
            *(settings.name, server.node_id, removed.result(), settings.data_dir),
        )
    await server.close()
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # all is in order: asking again must not spoil the exit code
    log.info("stopped")
    return 0


def configure_logging(level: str) -> None:
    """One line per event on standard error, for people."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s", "%F %T")
    )
    root = logging.getLogger("oarlock")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


def run(settings: Settings, files: Files | None = None) -> int:
    """`oarlock serve`: run a member to its end, on uvloop where there is one.

    Args:
        files: see `Server`.

    Raises:
        UsageError, DataDirError: what the caller asked for cannot be; the message says what to do.
        OarlockError: anything else that kept the member from starting or from stopping properly.
    """
    configure_logging(settings.log_level)
    for warning in settings.warnings:
        log.warning("%s", warning)
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        code = runner.run(serve(settings, files))
        if code:
            # Not after the runner's end, which waits for all threads: one may be stuck in a failing disk.
            sys.stderr.flush()
            os._exit(code)
    return code
