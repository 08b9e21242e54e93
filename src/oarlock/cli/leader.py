"""`oarlock move-leader`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from oarlock.cli.common import client_options, run_client
from oarlock.cli.output import MEMBER_ID

if TYPE_CHECKING:
    from oarlock.client import Client, MoveLeaderResponse


@click.command("move-leader")
@click.argument("member_id", type=MEMBER_ID, metavar="[ID]", default=0)
@client_options("simple")
def move_leader_command(member_id: int, **options: Any) -> int:
    """Hand the leadership over to the member with this ID, or without one to whom it suits best.

    The leader has to be among the --endpoints. Nothing is lost: writes wait a few milliseconds, until the new
    leader is elected. If the member does not take over within an election timeout, the old leader goes on.
    """
    from oarlock.client.client import NOT_LEADER
    from oarlock.grpc import RpcError

    async def call(client: Client) -> MoveLeaderResponse:
        return await client.move_leader(member_id)

    try:
        response = run_client(call, options)
    except RpcError as error:
        if error.message != NOT_LEADER:
            raise
        raise click.UsageError(
            f"no leader endpoint given at [{' '.join(options['endpoints'])}]: name all members in --endpoints"
        ) from None
    to = f" to {member_id:x}" if member_id else ""
    click.echo(f"Leadership transferred from {response.old_leader:x}{to}")
    return 0
