"""`oarlock endpoint status` and `endpoint health`, in etcdctl's manner."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from oarlock.cli.common import client_options, make_client, run_async
from oarlock.cli.output import human_bytes, print_json, print_rows

if TYPE_CHECKING:
    from oarlock.client import Client, StatusResponse

Result = TypeVar("Result")

STATUS_HEADING = (
    *("endpoint", "ID", "version", "db size", "is leader", "is learner", "raft term"),
    *("raft index", "raft applied index", "errors"),
)
HEALTH_HEADING = ("endpoint", "health", "took", "error")

_cluster_option = click.option(
    "--cluster", is_flag=True, help="Every member's client URLs, as the members tell them, for --endpoints."
)


@click.group("endpoint", context_settings={"help_option_names": ["-h", "--help"]})
def endpoint_command() -> None:
    """Ask every endpoint by itself how it is."""


@endpoint_command.command("status", short_help="Show each member's own view of term, leader and log.")
@_cluster_option
@client_options("simple", "table", "json", default=None)
def status_command(cluster: bool, **options: Any) -> int:
    """Show each member's own view: who leads, its term, how far its log is and how far it is applied.

    The exit code is 1 if an endpoint did not answer.
    """

    async def ask(client: Client) -> StatusResponse:
        return await client.status()

    answers = run_async(_ask_all(ask, cluster, options))
    found = []
    for endpoint, answer in answers:
        if isinstance(answer, Exception):
            click.echo(f"Failed to get the status of endpoint {endpoint} ({answer})", err=True)
        else:
            found.append((endpoint, answer))
    if options["write_out"] == "json":
        print_json([{"Endpoint": endpoint, "Status": _plain(status)} for endpoint, status in found])
    else:
        rows = [_status_row(endpoint, status) for endpoint, status in found]
        print_rows(STATUS_HEADING, rows, options["write_out"])
    return 0 if len(found) == len(answers) else 1


class Health(NamedTuple):
    took: float
    """Seconds."""
    error: str


@endpoint_command.command("health", short_help="Read a key through each member.")
@_cluster_option
@client_options("simple", "table", "json", default="simple")
def health_command(cluster: bool, **options: Any) -> int:
    """Read a key through each member, linearizably: that needs a leader and a majority.

    The exit code is 1 if one of them could not, or has an alarm.
    """

    async def ask(client: Client) -> Health:
        began = time.monotonic()
        await client.get("health")
        took = time.monotonic() - began
        alarms = (await client.alarms()).alarms
        kinds = "".join(f"{kind} " for _, kind in alarms)
        return Health(took, f"Active Alarm(s): {kinds}" if kinds else "")

    rows = []
    for endpoint, answer in run_async(_ask_all(ask, cluster, options)):
        health = Health(0.0, str(answer)) if isinstance(answer, Exception) else answer
        rows.append((endpoint, health))
    _print_health(rows, options["write_out"])
    if any(health.error for _, health in rows):
        raise click.ClickException("unhealthy cluster")
    return 0


def _print_health(rows: list[tuple[str, Health]], write_out: str) -> None:
    if write_out == "json":
        print_json(
            [
                {"endpoint": endpoint, "health": not error, "took": _milliseconds(took), "error": error}
                for endpoint, (took, error) in rows
            ]
        )
    elif write_out == "table":
        cells = [
            [endpoint, "false" if error else "true", _milliseconds(took), error]
            for endpoint, (took, error) in rows
        ]
        print_rows(HEALTH_HEADING, cells, write_out)
    else:
        for endpoint, (took, error) in rows:
            if error:
                click.echo(f"{endpoint} is unhealthy: failed to commit proposal: {error}", err=True)
            else:
                took_text = _milliseconds(took)
                click.echo(f"{endpoint} is healthy: successfully committed proposal: took = {took_text}")


async def _ask_all(
    ask: Callable[[Client], Awaitable[Result]], cluster: bool, options: dict[str, Any]
) -> list[tuple[str, Result | Exception]]:
    """The answer of every endpoint, or what went wrong with it; all at the same time."""
    from oarlock.errors import OarlockError

    endpoints: list[str] = list(options["endpoints"])
    if cluster:
        async with make_client(options) as client:
            members = (await client.members()).members
        endpoints = [url for member in members for url in member.client_urls]

    async def one(endpoint: str) -> Result | Exception:
        async with make_client(options, endpoint) as client:
            try:
                return await ask(client)
            except OarlockError as error:
                return error

    return list(zip(endpoints, await asyncio.gather(*map(one, endpoints)), strict=True))


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.6f}ms"


def _status_row(endpoint: str, status: StatusResponse) -> list[str]:
    return [
        endpoint,
        f"{status.header.member_id:x}",
        status.version,
        human_bytes(status.db_size),
        "true" if status.leader == status.header.member_id else "false",
        "true" if status.is_learner else "false",
        str(status.raft_term),
        str(status.raft_index),
        str(status.raft_applied_index),
        ", ".join(status.errors),
    ]


def _plain(status: StatusResponse) -> dict[str, Any]:
    """As etcdctl's JSON has it."""
    return {
        "header": {
            "cluster_id": status.header.cluster_id,
            "member_id": status.header.member_id,
            "revision": status.header.revision,
            "raft_term": status.header.raft_term,
        },
        "version": status.version,
        "dbSize": status.db_size,
        "leader": status.leader,
        "raftIndex": status.raft_index,
        "raftTerm": status.raft_term,
        "raftAppliedIndex": status.raft_applied_index,
        "errors": status.errors,
        "dbSizeInUse": status.db_size,
        "isLearner": status.is_learner,
    }
