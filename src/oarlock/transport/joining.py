"""How a new server finds out who it is, knowing no more than one member's address.

The operator adds the server to the membership first, by the URLs under which the members will reach it
(`oarlock member add`). The server then asks any member: its cluster's id, its own id, and who the others are.
The member answers from its committed configuration; it need not lead, nor know who does.

Only learners are invited. Every new member comes in as one (dissertation 4.2.1), and a learner counts
nowhere. A voter that lost its disk must not come back under its id: it could vote a second time in a term,
and it no longer has entries that it acknowledged. It is removed, and added anew.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

from oarlock.errors import UsageError, WireError
from oarlock.raft.types import Configuration, Member
from oarlock.transport.addresses import Address, parse_peer_url
from oarlock.wire.framing import FRAME_HEADER_BYTES, PROTOCOL_VERSION, PROTOCOL_VERSION_OLDEST, FrameReader
from oarlock.wire.handshake import (
    HANDSHAKE_BYTES_MAX,
    INVITATION_BYTES_MAX,
    REASON_CHARACTERS_MAX,
    Invitation,
    Join,
    Refusal,
    decode_handshake,
    encode_handshake,
)

TIMEOUT_SECONDS = 5.0
_PIECE_BYTES = 1 << 16


async def ask_to_join(
    addresses: Sequence[str],
    peer_urls: Sequence[str],
    name: str,
    ssl_client: ssl.SSLContext | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> Invitation:
    """Ask members, one after the other, until one invites us.

    Args:
        addresses: peer URLs of members.
        peer_urls: where the members will reach us, as the operator told them.
        name: ours; it decides only if there are no `peer_urls`.
        ssl_client: for https addresses.
        timeout: seconds for each address.

    Raises:
        UsageError: a member refused us, or an argument makes no sense. The line says what each address said.
        ConnectionError: nobody could be asked: try again later. The line says why, for each address.
    """
    join = Join(PROTOCOL_VERSION_OLDEST, PROTOCOL_VERSION, tuple(_normal(url) for url in peer_urls), name)
    if len(encode_handshake(join)) - FRAME_HEADER_BYTES > HANDSHAKE_BYTES_MAX:
        raise UsageError("the name and the peer URLs together are too long")
    if not addresses:
        raise UsageError("no member's address to ask: give at least one peer URL of the cluster")
    refused = False
    answers = []
    for address in [parse_peer_url(url) for url in addresses]:
        if address.tls and ssl_client is None:
            raise UsageError(f"peer URL {address}: https needs peer certificates, and none are configured")
        try:
            async with asyncio.timeout(timeout):
                answer = await _ask(address, join, ssl_client)
        except TimeoutError as error:
            answers.append(f"{address}: {str(error) or f'no answer within {timeout:g} s'}")
        except (OSError, WireError) as error:
            answers.append(f"{address}: {error}")
        else:
            if isinstance(answer, Invitation):
                return answer
            refused = True
            answers.append(f"{address}: {answer.reason[:REASON_CHARACTERS_MAX]}")
    line = f"cannot join the cluster: {'; '.join(answers)}"
    raise UsageError(line) if refused else ConnectionError(line)


def invitation_for(configuration: Configuration, cluster_id: int, join: Join) -> Invitation | Refusal:
    """A member's answer, from its committed configuration.

    The caller is who has one of its peer URLs; by name it is only known if it gives no URL, because names
    need not be distinct.
    """
    try:
        urls = {_normal(url) for url in join.peer_urls}
    except UsageError as error:
        return Refusal(str(error)[:REASON_CHARACTERS_MAX])
    if not urls and not join.name:
        return Refusal("it gives neither a peer URL nor a name by which it could be known")
    if urls:
        who = f"the peer URL {min(urls)}"
        found = [member for member in configuration.members if not urls.isdisjoint(_urls_of(member))]
    else:
        who = f"the name {join.name!r}"
        found = [member for member in configuration.members if member.name == join.name]
    if not found:
        return Refusal(f"no member with {who[:200]}: add it first with `oarlock member add`")
    if len(found) > 1:
        ids = ", ".join(f"{member.id:x}" for member in found)
        return Refusal(f"several members with {who[:200]}: {ids}")
    member = found[0]
    if configuration.is_voter(member.id):
        return Refusal(
            f"member {member.id:x} is a voter already; a voter that lost its data cannot come back: "
            "remove it with `oarlock member remove`, then add it again"
        )
    return Invitation(cluster_id, member.id, configuration.members)


async def _ask(address: Address, join: Join, ssl_client: ssl.SSLContext | None) -> Invitation | Refusal:
    stream, writer = await asyncio.open_connection(
        address.host,
        address.port,
        ssl=ssl_client if address.tls else None,
        server_hostname=address.host if address.tls else None,
    )
    try:
        writer.write(encode_handshake(join))
        reader = FrameReader(INVITATION_BYTES_MAX)
        while data := await stream.read(_PIECE_BYTES):
            for frame in reader.feed(data):
                answer = decode_handshake(frame.payload)
                if isinstance(answer, Invitation | Refusal):
                    return answer
                raise WireError(f"it answers with a {type(answer).__name__}")
        raise ConnectionError("it closed the connection without an answer")
    finally:
        writer.transport.abort()


def _urls_of(member: Member) -> set[str]:
    return {_normal(url) for url in member.peer_urls}


def _normal(url: str) -> str:
    """One spelling for each address."""
    return str(parse_peer_url(url))
