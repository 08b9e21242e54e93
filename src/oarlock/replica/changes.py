"""Membership changes and leadership transfers, as requests of this member's operator (chapters 3.10 and 4).

A change is made when its configuration is committed and applied here, and not joint any more. It is asked
for again until then, or until its time runs out, because asking twice does no harm: a change names the
outcome, and a leader refuses what is so already. So messages that get lost and leaders that fall do not
concern the caller. What the leader refuses for a reason is the caller's to know, except that another change
is in progress: that one ends by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

import msgspec

from oarlock.errors import ChangeReason, ChangeRefused, NotLeader, RequestError, RequestTimeout, Stopped
from oarlock.raft import Configuration, Index, NodeId, Raft, Role, Term
from oarlock.raft.messages import ChangeMembershipReply
from oarlock.raft.types import NOBODY, Change
from oarlock.replica.conditions import Conditions

_log = logging.getLogger("oarlock.replica")


class OwnEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What a member's settings say about itself. The log is made to say the same; None: leave it as it is."""

    name: str | None = None
    client_urls: tuple[str, ...] | None = None
    priority: int | None = None


class _Request:
    __slots__ = ("change", "deadline", "in_doubt", "timeout")

    def __init__(self, change: Change, timeout: float, now: float) -> None:
        self.change = change
        self.timeout = timeout
        self.deadline = now + timeout
        self.in_doubt = False
        """It was sent, and may have been appended."""


class Changes:
    """One member's requests to change the membership or the leadership.

    Args:
        first_number: random, so that an answer to an earlier process of this member is not taken for ours.
        removed: done when this member was removed.
    """

    def __init__(
        self,
        raft: Raft,
        conditions: Conditions,
        *,
        first_number: int,
        clock: Callable[[], float],
        wake: Callable[[], None],
        removed: asyncio.Future[str],
    ) -> None:
        self._raft = raft
        self._conditions = conditions
        self._number = first_number
        self._clock = clock
        self._wake = wake
        self._removed = removed
        self._asked: dict[int, asyncio.Future[ChangeMembershipReply]] = {}
        self._applied: deque[tuple[Index, Term]] = deque(maxlen=64)
        """The latest configuration entries that were applied here."""

    # ── from the loop ──────────────────────────────────────────────────────────────────────────────

    def answered(self, reply: ChangeMembershipReply) -> None:
        """The leader's answer to a change that was forwarded."""
        future = self._asked.pop(reply.number, None)
        if future is not None and not future.done():
            future.set_result(reply)

    def configuration_applied(self, index: Index, term: Term) -> None:
        self._applied.append((index, term))

    # ── membership ─────────────────────────────────────────────────────────────────────────────────

    async def change(self, change: Change, timeout: float) -> Configuration:
        """See `Runtime.change_membership`."""
        request = _Request(change, timeout, self._clock())
        try:
            while True:
                place = await self._place(request)
                if place is not None and await self._made(request, *place):
                    return self._raft.committed_configuration
        except TimeoutError:
            raise RequestTimeout(timeout, request.in_doubt) from None
        except _MadeBefore:
            return self._raft.committed_configuration

    async def _place(self, request: _Request) -> tuple[Index, Term] | None:
        """Have the leader append it: where, or None if it is to be tried again."""
        raft = self._raft
        await self._until(request, lambda: raft.leader_id != NOBODY and not raft.transferring)
        in_doubt = request.in_doubt
        try:
            if raft.leader_id == raft.id:
                index, term = raft.change_membership(request.change, self._clock()), raft.term
                self._wake()
            else:
                reply = await self._forward(request)
                if reply is None:
                    return None
                request.in_doubt = in_doubt  # an answer leaves none
                if not reply.index and not reply.reason:
                    raise NotLeader(NOBODY)
                if not reply.index:
                    raise ChangeRefused(ChangeReason(reply.reason), reply.text)
                index, term = reply.index, reply.term
        except NotLeader:
            await self._pause(request)
            return None
        except ChangeRefused as refusal:
            if in_doubt and await self._made_before(request):
                raise _MadeBefore from None
            if refusal.reason is not ChangeReason.IN_PROGRESS:
                raise
            await self._pause(request)
            return None
        request.in_doubt = True
        return index, term

    async def _made_before(self, request: _Request) -> bool:
        """Whether an earlier try of ours made it. The leader may have refused this one for that reason, and
        know it sooner than we do."""
        seconds = min(2 * self._raft.config.election_timeout, request.deadline - self._clock())
        try:
            await self._conditions.until(
                lambda: is_made(request.change, self._raft.committed_configuration), seconds
            )
        except TimeoutError:
            return False
        return True

    async def _forward(self, request: _Request) -> ChangeMembershipReply | None:
        self._number += 1
        number = self._number
        future: asyncio.Future[ChangeMembershipReply] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            self._raft.forward_change(number, request.change, self._clock())
            request.in_doubt = True
            self._wake()
            seconds = min(2 * self._raft.config.election_timeout, request.deadline - self._clock())
            return await asyncio.wait_for(future, max(seconds, 0.0))
        except TimeoutError:
            if self._clock() >= request.deadline:
                raise
            return None  # a message was lost
        finally:
            self._asked.pop(number, None)

    async def _made(self, request: _Request, index: Index, term: Term) -> bool:
        """Wait until the entry is applied. False: another one took its place, so it never will be."""
        raft = self._raft
        leaving = raft.id in request.change.remove

        def applied() -> bool:
            return raft.applied_index >= index or (leaving and self._removed.done())

        def settled() -> bool:
            return not raft.committed_configuration.joint or (leaving and self._removed.done())

        await self._until(request, applied)
        ours = (index, term) in self._applied
        await self._until(request, settled)
        made = ours or is_made(request.change, raft.committed_configuration)
        return made or (leaving and self._removed.done())

    async def _until(self, request: _Request, condition: Callable[[], bool]) -> None:
        await self._conditions.until(condition, request.deadline - self._clock())

    async def _pause(self, request: _Request) -> None:
        """Whoever refused us for now needs a moment."""
        seconds = self._raft.config.heartbeat_interval
        if self._clock() + seconds >= request.deadline:
            raise TimeoutError
        await asyncio.sleep(seconds)

    # ── leadership ─────────────────────────────────────────────────────────────────────────────────

    async def transfer(
        self, target: NodeId, timeout: float, hopeless: Callable[[], bool] = lambda: False
    ) -> NodeId:
        """See `Runtime.transfer_leadership`. It is given up as soon as it is `hopeless`."""
        raft = self._raft
        if raft.role is not Role.LEADER:
            raise NotLeader(raft.leader_id)
        term = raft.term
        whom = raft.transfer_leadership(target, self._clock())
        self._wake()

        def over() -> bool:
            gave_up = raft.role is Role.LEADER and raft.term == term and not raft.transferring
            return gave_up or (raft.term > term and raft.leader_id != NOBODY) or hopeless()

        try:
            await self._conditions.until(over, timeout)
        except TimeoutError:
            raise RequestTimeout(timeout, outcome_unknown=True) from None
        if raft.leader_id in (raft.id, NOBODY):
            raise ChangeRefused(
                ChangeReason.ABORTED,
                f"member {whom:x} did not take over in time: {raft.id:x} goes on leading",
            )
        return raft.leader_id

    # ── what this member says of itself ────────────────────────────────────────────────────────────

    async def publish(self, own: OwnEntry) -> None:
        """Have the log say what the settings say. Returns when it does; tries for as long as it takes."""
        raft = self._raft
        delay = 2 * raft.config.election_timeout
        refused = ""
        fields = {field: value for field, value in msgspec.structs.asdict(own).items() if value is not None}

        def known() -> bool:
            # In effect, committed and applied, and so durable here: that a member has a name says that it
            # has begun, and would have lost something if it came back with nothing.
            applied = raft.configuration_index <= raft.applied_index
            return applied and raft.configuration.member(raft.id) is not None

        while True:
            try:
                await self._conditions.until(known, delay)
                member = raft.configuration.member(raft.id)
                if member is not None:
                    changed = msgspec.structs.replace(member, **fields)
                    if changed != member:
                        # Not against a newer one: an operator may be changing our addresses.
                        seen = raft.configuration_index
                        await self.change(Change(update=(changed,), expected_index=seen), 2 * delay)
                    return
            except TimeoutError:
                continue
            except Stopped:
                return
            except ChangeRefused as refusal:
                if refusal.reason is ChangeReason.OUTDATED:
                    await asyncio.sleep(raft.config.heartbeat_interval)
                    continue
                if str(refusal) != refused:
                    refused = str(refusal)
                    _log.warning("the others cannot be told this member's name and addresses: %s", refusal)
                await asyncio.sleep(delay)
            except RequestError as error:
                _log.debug("the log does not say yet what our settings say: %s", error)
                await asyncio.sleep(delay)


class _MadeBefore(Exception):
    """An earlier try of the same request made the change."""


def is_made(change: Change, configuration: Configuration) -> bool:
    """Whether the configuration is as the change wants it."""
    taking_part = configuration.ids
    return (
        all(member.id in taking_part for member in change.add)
        and all(node_id in configuration.voters for node_id in change.promote)
        and all(node_id in configuration.learners for node_id in change.demote)
        and all(node_id not in taking_part for node_id in change.remove)
        and all(configuration.member(member.id) == member for member in change.update)
    )
