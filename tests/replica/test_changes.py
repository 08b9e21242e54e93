"""Membership changes and leadership transfers through whole members. On virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from oarlock.errors import ChangeReason, ChangeRefused, NotLeader, RequestTimeout, Stopped
from oarlock.raft import Configuration, Member, Message, Role
from oarlock.raft.messages import AppendEntries, ChangeMembership, ChangeMembershipReply, TimeoutNow
from oarlock.raft.types import Change
from oarlock.replica import OwnEntry, SnapshotPolicy
from oarlock.replica.changes import is_made
from oarlock.storage import LoopWorker
from oarlock.storage.disk import Append
from tests.replica.cluster import ELECTION_TIMEOUT, Cluster, Node
from tests.replica.test_snapshots import SOON, settle, until, write


async def join(cluster: Cluster, node_id: int, **change: Any) -> Node:
    """Add a member and start it."""
    someone = next(iter(cluster.nodes.values()))
    member = Member(node_id, f"m{node_id}")
    await someone.runtime.change_membership(Change(add=(member,), **change), timeout=20)
    node = cluster.nodes[node_id] = Node(cluster, node_id)
    node.initial = None
    await node.start()
    return node


async def votes(cluster: Cluster, *expected: int) -> None:
    """Wait until exactly these vote, as every running one of them knows."""
    nodes = [node for node in cluster.nodes.values() if node.id in expected]
    await until(
        lambda: all(
            node.runtime.committed_configuration.voters == expected
            and not node.runtime.committed_configuration.joint
            for node in nodes
        ),
        30,
    )


class TestMembership:
    @pytest.mark.parametrize("by_leader", [True, False])
    async def test_a_new_member_comes_in_as_a_learner_and_is_promoted_when_it_has_caught_up(
        self, by_leader: bool
    ) -> None:
        async with Cluster(policy=SOON) as cluster:
            asker = await (cluster.leader() if by_leader else cluster.follower())
            await write(asker, 30)
            new = Member(4, "m4")
            configuration = await asker.runtime.change_membership(Change(add=(new,)))
            assert configuration.learners == configuration.joining == (4,)
            node = cluster.nodes[4] = Node(cluster, 4)
            node.initial = None
            await node.start()
            await votes(cluster, 1, 2, 3, 4)
            assert len(await settle(cluster)) == 30

    async def test_a_learner_that_was_asked_for_stays_one_until_it_is_promoted(self) -> None:
        async with Cluster() as cluster:
            node = await join(cluster, 4, learners=True)
            await node.runtime.barrier(10)
            await asyncio.sleep(20 * ELECTION_TIMEOUT)
            assert node.runtime.configuration.learners == (4,)
            configuration = await node.runtime.change_membership(Change(promote=(4,)), timeout=20)
            assert configuration.voters == (1, 2, 3, 4)

    async def test_from_one_member_to_five_and_to_three_others_while_writes_go_on(self) -> None:
        async with Cluster(size=1, policy=SOON) as cluster:
            first = await cluster.leader()
            await write(first, 50)
            for node_id in (2, 3, 4, 5):
                await join(cluster, node_id)
                await write(first, 10)
            await votes(cluster, 1, 2, 3, 4, 5)
            asker = cluster.nodes[5].runtime
            configuration = await asker.change_membership(Change(remove=(1, 2)), timeout=20)
            assert configuration.voters == (3, 4, 5)
            await until(
                lambda: cluster.nodes[1].runtime.removed.done() and cluster.nodes[2].runtime.removed.done()
            )
            for node_id in (1, 2):
                await cluster.nodes.pop(node_id).stop()
            await write(cluster.nodes[3], 10)
            assert len(await settle(cluster)) == 100

    async def test_a_leader_that_removes_itself_says_so_and_knows_that_it_is_gone(self) -> None:
        async with Cluster() as cluster:
            leader = await cluster.leader()
            configuration = await leader.runtime.change_membership(Change(remove=(leader.id,)), timeout=20)
            assert leader.id not in configuration.ids
            await until(lambda: leader.runtime.removed.done())
            await cluster.nodes.pop(leader.id).stop()
            await cluster.leader()

    async def test_a_follower_that_removes_itself_says_so_and_knows_that_it_is_gone(self) -> None:
        async with Cluster() as cluster:
            follower = await cluster.follower()
            await follower.runtime.change_membership(Change(remove=(follower.id,)), timeout=20)
            await until(lambda: follower.runtime.removed.done())
            assert follower.runtime.status().removed

    async def test_a_member_that_was_removed_while_it_was_down_is_told_when_it_comes_back(self) -> None:
        async with Cluster() as cluster:
            follower = await cluster.follower()
            leader = await cluster.leader()
            await follower.stop()
            await leader.runtime.change_membership(Change(remove=(follower.id,)), timeout=20)
            await asyncio.sleep(10 * ELECTION_TIMEOUT)
            await follower.start()
            await until(lambda: follower.runtime.removed.done())
            assert "says so" in follower.runtime.removed.result()

    async def test_what_breaks_a_rule_is_refused_with_the_reason(self) -> None:
        async with Cluster() as cluster:
            for asker in (await cluster.leader(), await cluster.follower()):
                for change, reason in (
                    (Change(remove=(9,)), ChangeReason.NOT_FOUND),
                    (Change(add=(Member(1, "again"),)), ChangeReason.ALREADY_THERE),
                    (Change(promote=(1,)), ChangeReason.NOT_A_LEARNER),
                ):
                    with pytest.raises(ChangeRefused) as refusal:
                        await asker.runtime.change_membership(change)
                    assert refusal.value.reason is reason

    async def test_one_change_waits_for_the_other(self) -> None:
        async with Cluster() as cluster:
            askers = list(cluster.nodes.values())
            await asyncio.gather(
                *(
                    node.runtime.change_membership(
                        Change(update=(Member(node.id, f"new{node.id}"),)), timeout=20
                    )
                    for node in askers
                )
            )
            for node in askers:
                names = {member.name for member in node.runtime.committed_configuration.members}
                assert f"new{node.id}" in names

    async def test_without_a_quorum_time_runs_out_and_the_caller_learns_whether_it_was_asked(self) -> None:
        async with Cluster() as cluster:
            leader = await cluster.leader()
            follower = await cluster.follower()
            cluster.cut_off = {node_id for node_id in cluster.nodes if node_id != leader.id}
            with pytest.raises(RequestTimeout) as asked:
                await leader.runtime.change_membership(Change(update=(Member(1, "x"),)), timeout=0.3)
            assert asked.value.outcome_unknown
            await until(lambda: follower.runtime.leader_id == 0)
            with pytest.raises(RequestTimeout) as not_asked:
                await follower.runtime.change_membership(Change(update=(Member(1, "y"),)), timeout=0.3)
            assert not not_asked.value.outcome_unknown

    async def test_a_change_survives_the_loss_of_the_answer(self) -> None:
        async with Cluster() as cluster:
            follower = await cluster.follower()
            lost = [0, 0]

            def lose(message: Message) -> bool:
                return isinstance(message, ChangeMembershipReply) and bool(lost) and lost.pop() == 0

            follower.transport.lose = lose
            configuration = await follower.runtime.change_membership(
                Change(add=(Member(4, "m4"),), learners=True), timeout=20
            )
            assert configuration.learners == (4,)
            assert not lost

    async def test_nor_if_the_second_answer_comes_before_the_news_of_the_first(self) -> None:
        """Regression: "member 4 is there already", said to the one who had added it."""
        async with Cluster(policy=SOON) as cluster:
            follower = await cluster.follower()
            answers: list[Message] = []

            def lose(message: Message) -> bool:
                if isinstance(message, ChangeMembershipReply):
                    answers.append(message)
                    return len(answers) == 1
                return isinstance(message, AppendEntries) and bool(message.entries) and len(answers) < 2

            follower.transport.lose = lose
            configuration = await follower.runtime.change_membership(
                Change(add=(Member(4, "m4"),), learners=True), timeout=20
            )
            assert configuration.learners == (4,)
            assert len(answers) == 2

    async def test_a_change_survives_the_loss_of_the_leader(self) -> None:
        async with Cluster() as cluster:
            follower = await cluster.follower()
            leader = await cluster.leader()

            def cut(message: Message) -> bool:
                if isinstance(message, ChangeMembership):
                    cluster.cut_off.add(leader.id)
                return False

            leader.transport.lose = cut
            await follower.runtime.change_membership(Change(update=(Member(2, "new"),)), timeout=30)
            assert leader.id in cluster.cut_off
            assert follower.runtime.committed_configuration.member(2) == Member(2, "new")

    async def test_a_change_that_was_made_and_overtaken_is_not_made_again(self) -> None:
        async with Cluster() as cluster:
            follower, leader = await cluster.follower(), await cluster.leader()
            follower.transport.lose = lambda message: isinstance(message, AppendEntries)
            first = asyncio.ensure_future(
                follower.runtime.change_membership(Change(update=(Member(1, "first"),)), timeout=30)
            )
            await until(lambda: leader.runtime.committed_configuration.members[0].name == "first")
            await leader.runtime.change_membership(Change(update=(Member(1, "second"),)), timeout=30)
            follower.transport.lose = lambda message: False
            await first
            await asyncio.sleep(10 * ELECTION_TIMEOUT)
            assert leader.runtime.committed_configuration.members[0].name == "second"

    async def test_a_closing_member_answers_those_who_wait(self) -> None:
        async with Cluster() as cluster:
            leader = await cluster.leader()
            cluster.cut_off = {leader.id}
            pending = asyncio.ensure_future(
                leader.runtime.change_membership(Change(update=(Member(1, "x"),)), timeout=30)
            )
            await asyncio.sleep(0.01)
            await leader.stop()
            with pytest.raises(Stopped):
                await pending


class TestWhatTheSettingsSay:
    async def test_the_log_is_made_to_say_the_same_by_every_member(self) -> None:
        cluster = Cluster()
        for node in cluster.nodes.values():
            node.own = OwnEntry(client_urls=(f"http://client{node.id}:1",), priority=0)
        async with cluster:
            await until(
                lambda: all(
                    member.client_urls == (f"http://client{member.id}:1",) and member.name == f"m{member.id}"
                    for node in cluster.nodes.values()
                    for member in node.runtime.committed_configuration.members
                ),
                30,
            )
            index = cluster.nodes[1].runtime.raft.configuration_index
            for node in cluster.nodes.values():
                await node.stop()
                await node.start()
                await node.runtime.barrier(10)
            await asyncio.sleep(10 * ELECTION_TIMEOUT)
            assert cluster.nodes[1].runtime.raft.configuration_index == index, "nothing is said twice"

    async def test_a_new_member_says_its_name_when_it_has_something_to_lose_and_not_before(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Regression: killed before its log was durable, it was refused at its next start, as one that had
        been started before and had forgotten everything."""

        class NoEntryIsEverDurable(LoopWorker[Append]):
            def submit(self, item: Append) -> None:
                if not item.entries:
                    super().submit(item)

        async with Cluster() as cluster:
            leader = await cluster.leader()
            await leader.runtime.change_membership(Change(add=(Member(4, ""),), learners=True))
            monkeypatch.setattr("tests.replica.cluster.LoopWorker", NoEntryIsEverDurable)
            node = cluster.nodes[4] = Node(cluster, 4)
            node.initial, node.own = None, OwnEntry(name="d")
            await node.start()
            await until(lambda: node.runtime.commit_index >= leader.runtime.raft.configuration_index, 30)
            await asyncio.sleep(20 * ELECTION_TIMEOUT)
            member = leader.runtime.configuration.member(4)
            assert member is not None
            assert not member.name

    async def test_leadership_moves_to_the_member_that_is_preferred(self) -> None:
        cluster = Cluster()
        cluster.nodes[2].own = OwnEntry(priority=5)
        async with cluster:
            await until(lambda: cluster.leaders() == [2], 30)


class TestLeadership:
    @pytest.mark.parametrize("chosen", [True, False])
    async def test_a_transfer_makes_another_one_lead_at_once(self, chosen: bool) -> None:
        async with Cluster() as cluster:
            leader, follower = await cluster.leader(), await cluster.follower()
            began = asyncio.get_running_loop().time()
            now_leads = await leader.runtime.transfer_leadership(follower.id if chosen else 0)
            assert asyncio.get_running_loop().time() - began < ELECTION_TIMEOUT / 2
            assert now_leads != leader.id
            assert not chosen or now_leads == follower.id
            assert cluster.nodes[now_leads].runtime.role is Role.LEADER

    async def test_commands_that_come_meanwhile_are_done_by_the_next_leader(self) -> None:
        async with Cluster() as cluster:
            leader, follower = await cluster.leader(), await cluster.follower()
            handing_over = asyncio.ensure_future(leader.runtime.transfer_leadership(0))
            await asyncio.sleep(0)
            results = await asyncio.gather(
                *(node.runtime.submit(b"%d" % number) for number in range(20) for node in (leader, follower))
            )
            assert sorted(results) == list(range(1, 41))
            assert await handing_over != leader.id

    async def test_a_target_that_does_not_take_over_leaves_the_leader_leading(self) -> None:
        async with Cluster() as cluster:
            leader, follower = await cluster.leader(), await cluster.follower()
            follower.transport.lose = lambda message: isinstance(message, TimeoutNow)
            with pytest.raises(ChangeRefused) as refusal:
                await leader.runtime.transfer_leadership(follower.id)
            assert refusal.value.reason is ChangeReason.ABORTED
            assert await leader.runtime.submit(b"still") == 1

    async def test_only_the_leader_transfers_and_only_to_whom_it_can(self) -> None:
        async with Cluster() as cluster:
            leader, follower = await cluster.leader(), await cluster.follower()
            with pytest.raises(NotLeader) as error:
                await follower.runtime.transfer_leadership(0)
            assert error.value.leader_id == leader.id
            for target in (leader.id, 9):
                with pytest.raises(ChangeRefused) as refusal:
                    await leader.runtime.transfer_leadership(target)
                assert refusal.value.reason is ChangeReason.NO_TARGET

    async def test_a_leader_that_closes_hands_over_first_so_that_nobody_waits_for_an_election(self) -> None:
        async with Cluster() as cluster:
            leader, follower = await cluster.leader(), await cluster.follower()
            await leader.runtime.close(hand_over=True)
            others = [node for node in cluster.nodes.values() if node is not leader]
            assert any(node.runtime.role is Role.LEADER for node in others), "before it is gone"
            await leader.transport.close()
            began = asyncio.get_running_loop().time()
            await follower.runtime.submit(b"x")
            assert asyncio.get_running_loop().time() - began < ELECTION_TIMEOUT / 2

    async def test_without_anyone_to_hand_over_to_closing_takes_no_time(self) -> None:
        async with Cluster(size=1) as cluster:
            node = await cluster.leader()
            began = asyncio.get_running_loop().time()
            assert await node.runtime.hand_over() == 0
            await node.runtime.close(hand_over=True)
            assert asyncio.get_running_loop().time() - began < 0.01

    async def test_when_the_leaders_process_is_gone_nobody_waits_for_an_election_timeout(self) -> None:
        async with Cluster() as cluster:
            leader, follower = await cluster.leader(), await cluster.follower()
            began = asyncio.get_running_loop().time()
            await leader.transport.close()  # the network tells the others that it is gone
            await follower.runtime.submit(b"x")
            assert asyncio.get_running_loop().time() - began < ELECTION_TIMEOUT
            await leader.runtime.close()


def test_a_change_is_made_when_the_configuration_says_what_it_wants() -> None:
    members = tuple(Member(id_, f"m{id_}") for id_ in (1, 2, 3, 4))
    configuration = Configuration((1, 2, 3), learners=(4,), members=members)
    made = [
        Change(add=(Member(4, "whatever"),)),
        Change(promote=(2,)),
        Change(demote=(4,)),
        Change(remove=(5,)),
        Change(update=(Member(1, "m1"),)),
        Change(add=(Member(4, ""),), remove=(5,)),
    ]
    for change in made:
        assert is_made(change, configuration), change
    not_made = [
        Change(add=(Member(5, ""),)),
        Change(promote=(4,)),
        Change(demote=(1,)),
        Change(remove=(1,)),
        Change(update=(Member(1, "x"),)),
        Change(add=(Member(4, ""),), remove=(3,)),
    ]
    for change in not_made:
        assert not is_made(change, configuration), change


class TestComingBack:
    @pytest.mark.parametrize("policy", [SOON, None])
    async def test_a_member_that_was_away_while_all_others_were_replaced_finds_those_who_call_it(
        self, policy: SnapshotPolicy | None
    ) -> None:
        """Regression: its log does not say where the leader is, so it could answer nothing, for ever."""
        async with Cluster(policy=policy) as cluster:
            away = await cluster.follower()
            founders = [node for node in cluster.nodes.values() if node is not away]
            await away.stop()
            for node_id in (4, 5):
                await founders[0].runtime.change_membership(
                    Change(add=(Member(node_id, f"m{node_id}"),)), timeout=20
                )
                node = cluster.nodes[node_id] = Node(cluster, node_id)
                node.initial = None
                await node.start()
                await until(
                    lambda node=node: node.id in founders[0].runtime.committed_configuration.voters, 30
                )
            await write(cluster.nodes[4], 100)
            for node in founders:
                await cluster.nodes[4].runtime.change_membership(Change(remove=(node.id,)), timeout=30)
                await node.stop()
                del cluster.nodes[node.id]
            await away.start()
            await until(lambda: away.runtime.committed_configuration.voters == tuple(sorted((away.id, 4, 5))))
            assert len(await settle(cluster)) == 100
