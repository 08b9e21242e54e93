"""What the commands share: options, durations, a client, running a coroutine."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from oarlock.client import Client

Result = TypeVar("Result")
Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_ENDPOINT = "127.0.0.1:2379"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}


def _split_endpoints(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, ...]:
    given = (
        text or os.environ.get("OARLOCK_ENDPOINTS") or os.environ.get("ETCDCTL_ENDPOINTS") or DEFAULT_ENDPOINT
    )
    return tuple(part.strip() for part in given.split(",") if part.strip())


endpoints_option = click.option(
    "--endpoints",
    callback=_split_endpoints,
    metavar="HOST:PORT,…",
    help=f"Servers to talk to. [OARLOCK_ENDPOINTS, ETCDCTL_ENDPOINTS, {DEFAULT_ENDPOINT}]",
)


def _read_duration(ctx: click.Context, parameter: click.Parameter, text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|)", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a duration: write 5s, 500ms or 2m")
    return float(match[1]) * _UNITS[match[2]]


def duration_option(name: str, default: str, help: str) -> Callable[[Command], Command]:
    """An option in seconds, written as `5`, `5s`, `500ms` or `2m`."""
    return click.option(
        name, default=default, show_default=True, callback=_read_duration, metavar="TIME", help=help
    )


def client_options(*formats: str, default: str | None = "simple") -> Callable[[Command], Command]:
    """The options of every command that talks to servers.

    Args:
        formats: of the output.
        default: which of them; None: the command decides.
    """
    options = (
        endpoints_option,
        duration_option("--dial-timeout", "2s", "For a connection."),
        duration_option("--command-timeout", "5s", "For the whole command."),
        click.option("-w", "--write-out", type=click.Choice(formats), default=default, help="Output format."),
    )

    def add(function: Command) -> Command:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def make_client(options: dict[str, Any], endpoint: str = "") -> Client:
    """A client as `client_options` describe it; or one that asks this endpoint, and asks once."""
    from oarlock.client import Client

    return Client(
        endpoint or options["endpoints"],
        timeout=options["command_timeout"],
        dial_timeout=options["dial_timeout"],
        retry=not endpoint,
    )


def run_client(call: Callable[[Client], Awaitable[Result]], options: dict[str, Any]) -> Result:
    """Run `call` with a client, to its end."""

    async def main() -> Result:
        async with make_client(options) as client:
            return await call(client)

    return run_async(main())


def run_async(main: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end, on uvloop, or on asyncio's own loop where there is none (Windows).

    SIGTERM and SIGHUP cancel it, as Ctrl-C does: what it started is cleaned up, then `KeyboardInterrupt`
    is raised.
    """
    import asyncio

    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None

    async def cancellable() -> Result:
        task = asyncio.current_task()
        if task is not None and hasattr(signal, "SIGHUP"):
            for number in (signal.SIGTERM, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await main

    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            return runner.run(cancellable())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
