"""`oarlock member …`: who the members are, and changing it while the cluster works.

`list`, `add`, `promote`, `remove` and `update` are etcdctl's, with its output. `change` is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from oarlock.cli.common import client_options, run_client
from oarlock.cli.output import MEMBER_ID, print_json, print_rows

if TYPE_CHECKING:
    from oarlock.client import Client, Header, Member, MemberAddResponse, MemberListResponse

HEADING = ("ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner")


@click.group("member", context_settings={"help_option_names": ["-h", "--help"]})
def member_command() -> None:
    """Show and change the members of the cluster.

    A change is made by the leader, whichever member is asked. One change at a time: the next waits.
    IDs are those that `oarlock member list` prints.
    """


@member_command.command("list", short_help="List the members.")
@click.option(
    "--consistency",
    type=click.Choice(["l", "s"]),
    default="l",
    help="l is linearizable; s is what the member asked knows, even without a leader.",
)
@client_options("simple", "table", "json", default=None)
def list_command(consistency: str, **options: Any) -> int:
    """List the members: ID, status, name, peer addresses, client addresses, whether it is a learner.

    A member is unstarted until it has told the others its name.
    """

    async def call(client: Client) -> None:
        response = await client.members(serializable=consistency == "s")
        if options["write_out"] == "json":
            return print_json(_plain(response))
        print_rows(HEADING, [_row(member) for member in response.members], options["write_out"])

    run_client(call, options)
    return 0


@member_command.command("add")
@click.argument("name")
@click.option("--peer-urls", required=True, metavar="URL,…", help="Where the other members will find it.")
@click.option("--learner", is_flag=True, help="It stays a learner, without a vote, until `member promote`.")
@client_options("simple", "json")
def add_command(name: str, peer_urls: str, learner: bool, **options: Any) -> int:
    """Add a member, and print how to start it.

    It comes in as a learner, and counts for nothing until it has the log. Then the leader gives it a vote by
    itself, unless --learner was given. Add first, then start it; add one, and wait, before the next.
    """

    async def call(client: Client) -> None:
        response = await client.member_add(_split(peer_urls), learner=learner)
        if options["write_out"] == "json":
            return print_json(
                {
                    "header": _plain_header(response.header),
                    "member": _plain_member(response.member),
                    "members": [_plain_member(member) for member in response.members],
                }
            )
        kind = " as learner" if learner else ""
        click.echo(
            f"Member {response.member.id:16x} added{kind} to cluster {response.header.cluster_id:16x}\n"
        )
        click.echo(_how_to_start(name, response))

    run_client(call, options)
    return 0


def _how_to_start(name: str, response: MemberAddResponse) -> str:
    new = response.member
    own = ",".join(new.peer_urls)
    cluster = [
        f"{name if member.id == new.id else member.name}={url}"
        for member in response.members
        for url in member.peer_urls
    ]
    others = [url for member in response.members if member.id != new.id for url in member.peer_urls]
    return "\n".join(
        (
            f'OARLOCK_NAME="{name}"',
            f'OARLOCK_INITIAL_CLUSTER="{",".join(cluster)}"',
            f'OARLOCK_INITIAL_ADVERTISE_PEER_URLS="{own}"',
            'OARLOCK_INITIAL_CLUSTER_STATE="existing"',
            "",
            "Start it with these in its environment, or with",
            "",
            f"  oarlock serve --name {name} --join {','.join(others)} \\",
            f"    --listen-peer-urls {own} --listen-client-urls http://HOST:2379",
        )
    )


@member_command.command("remove")
@click.argument("member_id", type=MEMBER_ID, metavar="ID")
@client_options("simple", "json")
def remove_command(member_id: int, **options: Any) -> int:
    """Remove a member for good.

    It stops by itself when it learns of it; its data directory is of no use any more. A server that is to
    come back is added as a new member. With --strict-reconfig-check, which is the default, the removal is
    refused if too few of the others are there to go on.
    """

    async def call(client: Client) -> MemberListResponse:
        return await client.member_remove(member_id)

    return _report(f"Member {member_id:16x} removed from", run_client(call, options), options)


@member_command.command("promote", short_help="Give a learner its vote.")
@click.argument("member_id", type=MEMBER_ID, metavar="ID")
@client_options("simple", "json")
def promote_command(member_id: int, **options: Any) -> int:
    """Give a learner its vote, once its log has caught up with the leader's."""

    async def call(client: Client) -> MemberListResponse:
        return await client.member_promote(member_id)

    return _report(f"Member {member_id:16x} promoted in", run_client(call, options), options)


@member_command.command("update", short_help="Change a member's addresses or priority.")
@click.argument("member_id", type=MEMBER_ID, metavar="ID")
@click.option("--peer-urls", metavar="URL,…", help="Where the other members find it from now on.")
@click.option(
    "--priority",
    type=click.IntRange(0, 1_000_000),
    help="A leader hands over to a member of a higher priority. All begin with 0.",
)
@client_options("simple", "json")
def update_command(member_id: int, peer_urls: str | None, priority: int | None, **options: Any) -> int:
    """Change where a member is found, or how much you prefer it as the leader."""
    if peer_urls is None and priority is None:
        raise click.UsageError("say what to change: --peer-urls or --priority")

    async def call(client: Client) -> MemberListResponse:
        if peer_urls is not None:
            response = await client.member_update(member_id, _split(peer_urls))
        if priority is not None:
            response = await client.change_members(priorities={member_id: priority})
        return response

    return _report(f"Member {member_id:16x} updated in", run_client(call, options), options)


@member_command.command("change")
@click.option("--promote", type=MEMBER_ID, multiple=True, help="A learner that becomes a voter.")
@click.option("--demote", type=MEMBER_ID, multiple=True, help="A voter that becomes a learner.")
@click.option("--remove", type=MEMBER_ID, multiple=True, help="A member that leaves for good.")
@client_options("simple", "json")
def change_command(
    promote: tuple[int, ...], demote: tuple[int, ...], remove: tuple[int, ...], **options: Any
) -> int:
    """Make several changes as one: all or nothing.

    Each option may be given several times. To replace three members by three others: add these with
    `member add --learner`, start them, and when they have caught up, promote and remove in one change.
    """
    if not (promote or demote or remove):
        raise click.UsageError("say what to change: --promote, --demote or --remove")

    async def call(client: Client) -> MemberListResponse:
        return await client.change_members(promote=promote, demote=demote, remove=remove)

    return _report("Members changed in", run_client(call, options), options)


def _report(done: str, response: MemberListResponse, options: dict[str, Any]) -> int:
    if options["write_out"] == "json":
        print_json(_plain(response))
    else:
        click.echo(f"{done} cluster {response.header.cluster_id:16x}")
    return 0


def _split(urls: str) -> list[str]:
    return [url.strip() for url in urls.split(",") if url.strip()]


def _row(member: Member) -> list[str]:
    return [
        f"{member.id:x}",
        "started" if member.name else "unstarted",
        member.name,
        ",".join(member.peer_urls),
        ",".join(member.client_urls),
        "true" if member.is_learner else "false",
    ]


def _plain(response: MemberListResponse) -> dict[str, Any]:
    """As etcdctl's JSON has it."""
    return {
        "header": _plain_header(response.header),
        "members": [_plain_member(member) for member in response.members],
    }


def _plain_header(header: Header) -> dict[str, int]:
    return {
        "cluster_id": header.cluster_id,
        "member_id": header.member_id,
        "revision": header.revision,
        "raft_term": header.raft_term,
    }


def _plain_member(member: Member) -> dict[str, Any]:
    return {
        "ID": member.id,
        "name": member.name,
        "peerURLs": member.peer_urls,
        "clientURLs": member.client_urls,
        "isLearner": member.is_learner,
    }
