"""Who a member is: what its data directory says, or its flags, or the cluster that it joins.

=================================  ===========================================================================
it starts with                     its ids come from
=================================  ===========================================================================
a data directory                   that; `--initial-cluster` and `--join` count no more, as in etcd. Only a
                                   cluster token that differs is refused: it is the wrong directory
`--initial-cluster-state new`      `--initial-cluster`, as etcd derives them: equal on all founding members
`--join`, or state `existing`      a member of the running cluster, which is asked for them
=================================  ===========================================================================

A server that asks has been added to the membership before, by an operator. It is recognised by its peer URLs.
One that was started before, and has nothing any more, is refused: it has forgotten what it promised to the
others (dissertation 3.8), so it has to come back as a new member.
"""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from oarlock import etcd
from oarlock.errors import DataDirError, UsageError
from oarlock.raft import Configuration, Member
from oarlock.server.config import Settings
from oarlock.storage import DataDir
from oarlock.transport.joining import ask_to_join, invitation_for
from oarlock.wire.handshake import Invitation, Join, Refusal

log = logging.getLogger("oarlock.server")

ASK_SECONDS = 30.0
"""How long a joining server goes on asking while nobody answers: the network may not be up yet."""
REFUSED_SECONDS = 2.0
"""And while it is refused."""
PAUSE_SECONDS = 0.2
AGAIN_SECONDS = 1.0
"""How long a restarted member waits for each of those that it once joined."""


class Identity(msgspec.Struct, frozen=True):
    """Who a member is, and what it begins with."""

    cluster_id: int
    node_id: int
    founding: Configuration | None
    """What its log begins with, if it holds nothing; None: it waits to be sent one."""
    peers: tuple[Member, ...] = ()
    """The others, as far as is known before there is a log."""


def initial_configuration(settings: Settings) -> Configuration:
    """The members that the settings name, with the ids that etcd would give them."""
    members = []
    for name, peer_urls in settings.initial_cluster:
        # Without client URLs: this becomes the log's first entry, so it must be equal on all members, and
        # each is told only its own. They are published through the log later.
        node_id = etcd.member_id(peer_urls, settings.initial_cluster_token)
        members.append(Member(node_id, name, tuple(sorted(peer_urls))))
    members.sort(key=lambda member: member.id)
    return Configuration(voters=tuple(member.id for member in members), members=tuple(members))


async def identify(settings: Settings) -> Identity:
    """Find out who this member is.

    Raises:
        UsageError: nobody who was asked knows this server.
        DataDirError: the data directory cannot be read, or is of another cluster.
    """
    found = DataDir.identity(settings.data_dir)
    if found is not None:
        cluster_id, node_id = found.ids
        if found.token and not settings.join and found.token != settings.initial_cluster_token:
            raise DataDirError(
                f"{settings.data_dir}: belongs to member {node_id:x} of cluster {cluster_id:x}, which was "
                f"founded with --initial-cluster-token {found.token}, not {settings.initial_cluster_token}: "
                "give this member its own data directory"
            )
        peers = await _peers_again(settings, node_id) if settings.join else ()
        return Identity(cluster_id, node_id, _founding(settings, cluster_id, node_id), peers)
    if settings.join:
        return await ask(settings)
    configuration = initial_configuration(settings)
    node_id = next(member.id for member in configuration.members if member.name == settings.name)
    return Identity(etcd.cluster_id(configuration.voters), node_id, configuration)


def _founding(settings: Settings, cluster_id: int, node_id: int) -> Configuration | None:
    """The configuration to found the cluster with: this member may have crashed before it was stored."""
    if settings.join:
        return None
    configuration = initial_configuration(settings)
    flagged = etcd.cluster_id(configuration.voters)
    if flagged == cluster_id and node_id in configuration.voters:
        return configuration
    log.warning(
        "%s belongs to member %x of cluster %x, and --initial-cluster names %s: the data decide. If members "
        "came, went or moved, that is as it should be; else this is another member's data",
        *(settings.data_dir, node_id, cluster_id),
        "other members" if flagged == cluster_id else f"cluster {flagged:x}",
    )
    return None


async def _peers_again(settings: Settings, node_id: int) -> tuple[Member, ...]:
    """The others, for a member that was stopped before it had a log: else it could not even answer them.

    Any other member has them in its log; that it is refused, as one that was started before, does no harm.
    """
    try:
        invitation = await ask_to_join(
            settings.join, settings.advertise_peer_urls, settings.name, timeout=AGAIN_SECONDS
        )
    except (UsageError, ConnectionError) as error:
        log.debug("not invited again: %s", error)
        return ()
    return tuple(member for member in invitation.members if member.id != node_id)


async def ask(settings: Settings) -> Identity:
    """Ask the members at `settings.join` who this server is.

    Raises:
        UsageError: they do not know this server, or refuse it, or cannot be reached: what each of them said.
    """
    log.info("asking %s to join their cluster", ", ".join(settings.join))
    began = time.monotonic()
    while True:
        try:
            invitation = await ask_to_join(settings.join, settings.advertise_peer_urls, settings.name)
        except UsageError:
            # Whoever was asked may be a little behind the member that made the change.
            if time.monotonic() - began > REFUSED_SECONDS:
                raise
        except ConnectionError as error:
            if time.monotonic() - began > ASK_SECONDS:
                raise UsageError(str(error)) from None
        else:
            others = tuple(member for member in invitation.members if member.id != invitation.member_id)
            return Identity(invitation.cluster_id, invitation.member_id, None, others)
        await asyncio.sleep(PAUSE_SECONDS)


def answer(configuration: Configuration, cluster_id: int, join: Join) -> Invitation | Refusal:
    """What to say to a server that asks to join: who it is, or why it is nobody."""
    found = invitation_for(configuration, cluster_id, join)
    if isinstance(found, Refusal):
        return found
    member = configuration.member(found.member_id)
    if member is not None and member.name:
        return Refusal(
            f"the member at {','.join(member.peer_urls)} ({member.name}, {member.id:x}) was started before, "
            "and its data is gone: with it what it promised to the others. Remove it with `oarlock member "
            f"remove {member.id:x}`, and add it anew with `oarlock member add`"
        )
    return found
