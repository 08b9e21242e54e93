"""Who a member of the library's is: what its data directory says, or its arguments, or the cluster it joins.

Ids of founding members follow from their names and the cluster's token: all of them can work them out, and
none has to ask. Members that are added later get random ones, so that a name may come back after its
member was removed, which the id must not. A data directory keeps the ids that it was made with: the
arguments of later starts may name members that came or went since.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from oarlock.errors import UsageError
from oarlock.raft import Configuration, Member
from oarlock.storage import DataDir
from oarlock.transport import ask_to_join, parse_peer_url

_ASK_SECONDS = 30.0
"""How long a new member goes on asking while nobody answers."""
_REFUSED_SECONDS = 2.0
"""And while it is refused: whoever was asked may be a little behind the member that made the change."""
_PAUSE_SECONDS = 0.2


class Identity(msgspec.Struct, frozen=True):
    """Who a member is, and what it begins with."""

    cluster_id: int
    member_id: int
    founding: Configuration | None
    """What its log begins with, if it holds nothing; None: it waits to be sent one."""
    peers: tuple[Member, ...]
    """The others, as far as the arguments and the member that was asked tell."""


async def identify(
    name: str,
    data_dir: Path | None,
    *,
    founders: tuple[Member, ...],
    token: str,
    join: Sequence[str],
    peer_url: str,
) -> Identity:
    """Find out who this member is.

    Args:
        founders: the initial cluster; empty for a member that joins one.
        join: peer URLs of members to ask then.
        peer_url: where the others will reach this member.

    Raises:
        UsageError: it is not known to the members that were asked, or nobody could be asked.
        DataDirError: the data directory cannot be read.
    """
    found = None if data_dir is None else DataDir.identity(data_dir)
    if found is not None:
        cluster, member = found.ids
        if not founders:
            return Identity(cluster, member, None, await _those_who_answer(join, peer_url, name))
        ours = cluster_id(token, (founder.name for founder in founders)) == cluster
        return Identity(cluster, member, _configuration(founders) if ours else None, founders)
    if founders:
        own = next(founder for founder in founders if founder.name == name)
        return Identity(
            cluster_id(token, (founder.name for founder in founders)),
            own.id,
            _configuration(founders),
            founders,
        )
    return await _ask(join, peer_url, name)


async def _ask(join: Sequence[str], peer_url: str, name: str) -> Identity:
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        try:
            invitation = await ask_to_join(join, (peer_url,), name)
            return Identity(invitation.cluster_id, invitation.member_id, None, invitation.members)
        except UsageError:
            if loop.time() - began > _REFUSED_SECONDS:
                raise
        except ConnectionError as error:
            if loop.time() - began > _ASK_SECONDS:
                raise UsageError(str(error)) from None
        await asyncio.sleep(_PAUSE_SECONDS)


async def _those_who_answer(join: Sequence[str], peer_url: str, name: str) -> tuple[Member, ...]:
    """The members, if anyone tells: a member that stopped before it was sent a log knows nobody."""
    try:
        return (await ask_to_join(join, (peer_url,), name, timeout=1.0)).members
    except (UsageError, ConnectionError):
        return ()  # as a rule it has a log, which knows better


def _configuration(founders: tuple[Member, ...]) -> Configuration:
    return Configuration(voters=tuple(founder.id for founder in founders), members=founders)


def member_id(token: str, name: str) -> int:
    """A founding member's id, from its name: so it stays itself when it moves to another address."""
    return _id_of(b"member", token, name)


def cluster_id(token: str, names: Iterable[str]) -> int:
    """The id of the cluster that these members found."""
    return _id_of(b"cluster", token, *sorted(names))


def _id_of(kind: bytes, *parts: str) -> int:
    """64 bits, never 0. Each part goes in with its length: no two lists of parts give the same bytes."""
    digest = hashlib.blake2b(digest_size=8, person=kind)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return int.from_bytes(digest.digest(), "big") or 1


def founding_members(initial_cluster: Mapping[str, str] | str, token: str) -> tuple[Member, ...]:
    """All members, sorted by id. Raises `UsageError`."""
    if isinstance(initial_cluster, str):
        pairs = [part.strip().partition("=") for part in initial_cluster.split(",") if part.strip()]
        addresses = {name: url for name, _, url in pairs}
        if len(addresses) != len(pairs):
            raise UsageError(f"initial_cluster {initial_cluster!r}: a name is there twice")
    else:
        addresses = dict(initial_cluster)
    if not addresses:
        raise UsageError("initial_cluster is empty: give every member's name and peer URL")
    for name, url in addresses.items():
        if not name or not url:
            raise UsageError(f"initial_cluster: {name or url!r}: write name=http://host:port")
        check_url("initial_cluster", url)
    if len(set(addresses.values())) != len(addresses):
        raise UsageError("initial_cluster: two members have the same URL")
    members = [Member(member_id(token, name), name, (url,)) for name, url in addresses.items()]
    return tuple(sorted(members, key=lambda member: member.id))


def check_url(argument: str, url: str) -> None:
    """Raises `UsageError`, with the argument's name."""
    if parse_peer_url(url).tls:
        raise UsageError(f"{argument}: {url!r}: TLS is not supported here yet, write http://…")
