"""Whole members: three runtimes, with storage and transport that can be hurt. On virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from oarlock.errors import (
    Busy,
    DataDirError,
    DiskFailure,
    InvariantViolated,
    RequestTimeout,
    Stopped,
    UsageError,
    invariant,
)
from oarlock.machine import Command
from oarlock.raft import Config, Configuration, HardState, Message
from oarlock.raft.messages import Propose, ReadIndex, ReadIndexReply
from oarlock.replica import Runtime, RuntimeLimits
from oarlock.storage import MemoryStorage
from oarlock.transport import ChannelNetwork
from tests.replica.cluster import ELECTION_TIMEOUT, Cluster, Journal, Node


async def test_every_member_takes_commands_and_all_apply_the_same() -> None:
    async with Cluster() as cluster:
        expected = []
        for number, node in enumerate(list(cluster.nodes.values()) * 3, start=1):
            expected.append(b"%d" % number)
            assert await node.runtime.submit(expected[-1]) == number
        for node in cluster.nodes.values():
            await node.runtime.barrier()
            assert node.machine.commands == expected


async def test_a_read_barrier_at_any_member_sees_every_answered_write() -> None:
    async with Cluster() as cluster:
        for number in range(30):
            writer, reader = cluster.nodes[number % 3 + 1], cluster.nodes[number // 3 % 3 + 1]
            await writer.runtime.submit(b"%d" % number)
            await reader.runtime.barrier()
            assert reader.machine.commands[-1] == b"%d" % number


async def test_one_member_alone_is_its_own_majority() -> None:
    async with Cluster(size=1) as cluster:
        node = cluster.nodes[1]
        assert await node.runtime.submit(b"x") == 1
        await node.runtime.barrier()
        assert node.runtime.leader_id == 1


async def test_a_batch_of_one_turn_costs_one_message_and_one_write() -> None:
    async with Cluster() as cluster:
        follower = await cluster.follower()
        leader = await cluster.leader()
        batches: list[int] = []

        def watch(message: Message) -> bool:
            if isinstance(message, Propose):
                batches.append(len(message.commands))
            return False

        leader.transport.lose = watch
        await asyncio.gather(*(follower.runtime.submit(b"%d" % number) for number in range(100)))
        assert batches == [100]
        assert follower.machine.commands == [b"%d" % number for number in range(100)]


@pytest.mark.parametrize("seed", range(5))
async def test_commands_on_their_way_survive_the_loss_of_the_leader_and_are_applied_once(seed: int) -> None:
    async with Cluster(seed=seed) as cluster:
        leader = await cluster.leader()
        others = [node for node in cluster.nodes.values() if node is not leader]
        pending = [
            asyncio.ensure_future(node.runtime.submit(b"%d-%d" % (node.id, number)))
            for number in range(50)
            for node in others
        ]
        for _ in range(seed):
            await asyncio.sleep(0)  # so many turns, and the leader is gone
        cluster.cut_off.add(leader.id)
        results = await asyncio.gather(*pending)
        assert sorted(results) == list(range(1, 101))
        new = await cluster.leader()
        assert new is not leader
        assert len(set(new.machine.commands)) == len(new.machine.commands) == 100

        cluster.cut_off.clear()
        await leader.runtime.barrier()
        assert leader.machine.commands == new.machine.commands
        assert len(cluster.leaders()) == 1


async def test_an_isolated_leader_gives_up_and_tells_who_waits_that_it_is_not_sure() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        cluster.cut_off.add(leader.id)
        with pytest.raises(RequestTimeout) as doubtful:
            await leader.runtime.submit(b"in doubt", timeout=1.0)
        assert doubtful.value.outcome_unknown is True
        assert leader.id not in cluster.leaders()
        with pytest.raises(RequestTimeout) as certain:
            await leader.runtime.submit(b"never sent", timeout=1.0)
        assert certain.value.outcome_unknown is False
        with pytest.raises(RequestTimeout):
            await leader.runtime.barrier(timeout=1.0)
        await (await cluster.leader()).runtime.submit(b"elsewhere")

        cluster.cut_off.clear()
        await leader.runtime.barrier()
        assert leader.machine.commands == [b"elsewhere"], "what timed out was overwritten by the new leader"


async def test_a_command_of_a_deposed_leader_is_retried_and_applied_once() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        cluster.cut_off.add(leader.id)
        patient = asyncio.ensure_future(leader.runtime.submit(b"patient", timeout=60))
        await (await cluster.leader()).runtime.submit(b"meanwhile")
        cluster.cut_off.clear()
        assert await patient == 2
        assert leader.machine.commands == [b"meanwhile", b"patient"]


async def test_a_lost_batch_leaves_its_caller_in_doubt() -> None:
    async with Cluster() as cluster:
        follower = await cluster.follower()
        leader = await cluster.leader()
        leader.transport.lose = lambda message: isinstance(message, Propose)
        with pytest.raises(RequestTimeout) as error:
            await follower.runtime.submit(b"lost", timeout=0.5)
        assert error.value.outcome_unknown is True
        leader.transport.lose = lambda message: False
        assert await follower.runtime.submit(b"next") == 1


async def test_a_leader_that_stepped_down_is_not_asked_again_and_again() -> None:
    """Its last follower believes in it for a while. Requests once went to and fro, as fast as they could."""
    async with Cluster(size=5) as cluster:
        leader, follower = await cluster.leader(), await cluster.follower()
        stranded = {leader.id, follower.id}
        for node in cluster.nodes.values():
            node.transport.cut = lambda sender, to: (sender in stranded) != (to in stranded)
        await until(lambda: leader.id not in cluster.leaders())
        assert follower.runtime.leader_id == leader.id
        asked: list[Message] = []

        def watch(message: Message) -> bool:
            if isinstance(message, Propose | ReadIndex):
                asked.append(message)
            return len(asked) > 100

        leader.transport.lose = watch
        writing = asyncio.ensure_future(follower.runtime.submit(b"x", timeout=60))
        reading = asyncio.ensure_future(follower.runtime.barrier(timeout=60))
        await until(lambda: follower.runtime.leader_id != leader.id)
        assert len(asked) == 2
        stranded.clear()
        assert await writing == 1
        await reading


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(ELECTION_TIMEOUT / 100)
    raise AssertionError("it did not come about")


async def test_a_read_needs_a_majority_and_time_runs_out_without_one() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        cluster.cut_off.update(cluster.nodes)
        for node in cluster.nodes.values():
            with pytest.raises(RequestTimeout) as error:
                await node.runtime.barrier(timeout=0.5)
            assert error.value.outcome_unknown is False
        cluster.cut_off.clear()
        await leader.runtime.barrier()


async def test_nothing_is_lost_when_all_members_lose_power() -> None:
    async with Cluster(seed=3) as cluster:
        written: list[bytes] = []
        for round_ in range(5):
            for number in range(20):
                data = b"%d-%d" % (round_, number)
                await cluster.nodes[number % 3 + 1].runtime.submit(data)
                written.append(data)
            for node in cluster.nodes.values():
                await crash(node)
            for node in cluster.nodes.values():
                await node.start()
            for node in cluster.nodes.values():
                await node.runtime.barrier()
                assert node.machine.commands == written


async def crash(node: Node) -> None:
    try:
        await node.crash()
    except DiskFailure:
        pass  # what the dying member said of it


async def test_a_member_that_was_away_catches_up() -> None:
    async with Cluster() as cluster:
        follower = await cluster.follower()
        await follower.stop()
        leader = next(node for node in cluster.nodes.values() if node is not follower)
        for number in range(200):
            await leader.runtime.submit(b"x" * 100 + b"%d" % number)
        await follower.start()
        await follower.runtime.barrier()
        assert follower.machine.commands == leader.machine.commands


class Lasting(Journal):
    """Keeps its state over a restart, as the key-value store does."""

    def apply(self, commands: Sequence[Command], applied_index: int) -> list[Any]:
        results = super().apply(commands, applied_index)
        self.applied_index = applied_index
        return results


async def test_a_machine_that_kept_its_state_is_given_only_what_it_lacks() -> None:
    async with Cluster() as cluster:
        follower = await cluster.follower()
        machine = Lasting()
        follower.make_machine = lambda: machine
        await follower.stop()
        await follower.start()
        leader = await cluster.leader()
        for number in range(5):
            await leader.runtime.submit(b"%d" % number)
        await follower.runtime.barrier()
        await follower.stop()
        await leader.runtime.submit(b"5")
        await follower.start()
        await follower.runtime.barrier()
        assert machine.commands == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_a_disk_failure_stops_the_member_and_whoever_waits_is_told() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        cluster.cut_off.update(id_ for id_ in cluster.nodes if id_ != leader.id)
        waiting = asyncio.ensure_future(leader.runtime.submit(b"sent"))
        reading = asyncio.ensure_future(leader.runtime.barrier())
        leader.broken = True
        error = await leader.runtime.failed
        assert isinstance(error, DiskFailure)
        with pytest.raises(Stopped) as stopped:
            await waiting
        assert stopped.value.outcome_unknown is True
        with pytest.raises(Stopped):
            await reading
        for request in (leader.runtime.submit(b"later"), leader.runtime.barrier()):
            with pytest.raises(Stopped, match="the disk failed"):
                await request
        leader.broken = False
        cluster.cut_off.clear()
        assert await (await next_leader(cluster, leader)).runtime.submit(b"goes on") in (1, 2)


async def next_leader(cluster: Cluster, old: Node) -> Node:
    other = next(node for node in cluster.nodes.values() if node is not old)
    await other.runtime.barrier(10)
    return cluster.nodes[other.runtime.leader_id]


async def test_a_machine_that_cannot_go_on_stops_only_its_own_member() -> None:
    async with Cluster() as cluster:
        follower = await cluster.follower()
        leader = await cluster.leader()

        def fail(data: bytes) -> None:
            raise MemoryError("poison for one")

        follower.machine.on_apply = fail
        assert await leader.runtime.submit(b"x") == 1
        assert isinstance(await follower.runtime.failed, MemoryError)
        assert await leader.runtime.submit(b"y") == 2


async def test_beyond_its_bounds_a_member_is_busy_and_recovers() -> None:
    limits = RuntimeLimits(proposals_max=10, reads_max=10, batch_bytes_max=100)
    async with Cluster(limits=limits) as cluster:
        follower = await cluster.follower()
        runtime = follower.runtime
        answered: list[Any] = []
        for _ in range(10):
            runtime.propose(b"x", lambda result, error: answered.append(error))
            runtime.read_barrier(answered.append)
        with pytest.raises(Busy):
            runtime.propose(b"x", lambda result, error: answered.append(error))
        with pytest.raises(Busy):
            runtime.read_barrier(answered.append)
        with pytest.raises(UsageError, match="the limit is 84"):
            runtime.propose(b"x" * 85, lambda result, error: answered.append(error))
        await asyncio.sleep(1)
        assert answered == [None] * 20
        await runtime.submit(b"x" * 84)


async def test_closing_tells_whoever_waits_whether_the_command_was_on_its_way() -> None:
    async with Cluster() as cluster:
        follower = await cluster.follower()
        sent = asyncio.ensure_future(follower.runtime.submit(b"sent"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        queued = asyncio.ensure_future(follower.runtime.submit(b"queued"))
        reading = asyncio.ensure_future(follower.runtime.barrier())
        await asyncio.sleep(0)
        await follower.runtime.close()
        await follower.runtime.close()
        outcomes = await asyncio.gather(sent, queued, reading, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Stopped] * 3
        assert [getattr(outcome, "outcome_unknown", None) for outcome in outcomes] == [True, False, False]
        with pytest.raises(Stopped):
            await follower.runtime.submit(b"after")


async def test_a_caller_that_goes_away_disturbs_nobody() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        gone = [asyncio.ensure_future(leader.runtime.submit(b"gone")) for _ in range(3)]
        reading = asyncio.ensure_future(leader.runtime.barrier())
        await asyncio.sleep(0)
        for task in (*gone, reading):
            task.cancel()
        assert await leader.runtime.submit(b"stays") == 4
        await leader.runtime.barrier()


async def test_a_callback_that_raises_is_reported_and_disturbs_nobody() -> None:
    """It once stopped the member, and whoever was answered after it got Stopped for an applied command."""
    async with Cluster() as cluster:
        leader = await cluster.leader()
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

        def careless(*_: object) -> None:
            raise LookupError("the caller's own mistake")

        leader.runtime.propose(b"x", careless)
        leader.runtime.read_barrier(careless)
        others = (leader.runtime.submit(b"y"), leader.runtime.submit(b"z"), leader.runtime.barrier())
        assert await asyncio.gather(*others) == [2, 3, None]
        leader.runtime.propose(b"x", careless, timeout=0)
        await asyncio.sleep(1)
        assert await leader.runtime.submit(b"z") == len(leader.machine.commands)
        assert [type(context["exception"]) for context in reported] == [LookupError] * 3
        assert not leader.runtime.failed.done()


async def test_a_callback_that_finds_an_invariant_violated_stops_the_member() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()

        def alarm(*_: object) -> None:
            invariant(False, "found by a callback")

        leader.runtime.propose(b"x", alarm)
        assert isinstance(await leader.runtime.failed, InvariantViolated)


async def test_an_idle_cluster_keeps_its_leader_and_an_idle_follower_stores_nothing() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        term = leader.runtime.term
        operations: list[str] = []
        for node in cluster.nodes.values():
            node.files.before = lambda operation, path: operations.append(operation)
        await asyncio.sleep(100 * ELECTION_TIMEOUT)
        assert leader.runtime.term == term
        assert operations == []


async def test_a_member_that_is_far_behind_with_applying_takes_no_commands() -> None:
    async with Cluster(limits=RuntimeLimits(apply_lag_max=100)) as cluster:
        follower, leader = await cluster.follower(), await cluster.leader()
        await follower.runtime.submit(b"x")
        raft = follower.runtime.raft
        raft.log.commit_index, commit = raft.applied_index + 101, raft.log.commit_index
        with pytest.raises(Busy, match="101 entries yet to apply"):
            await follower.runtime.submit(b"y")
        raft.log.commit_index = commit
        await follower.runtime.submit(b"y")
        await leader.runtime.submit(b"z")


class TestStaleness:
    """Reads that may miss what was committed a little while ago."""

    async def test_a_read_serves_others_from_when_it_was_asked_for_until_its_bound(self) -> None:
        async with Cluster() as cluster:
            follower = await cluster.follower()
            runtime = follower.runtime
            await runtime.barrier()
            now = asyncio.get_running_loop().time
            asked = now()
            original = follower.transport.lose
            follower.transport.lose = lambda message: isinstance(message, ReadIndexReply)
            pending = asyncio.ensure_future(runtime.barrier(60))
            await asyncio.sleep(0.05)
            assert runtime._reads.fresh_at <= asked, "what is asked for is not confirmed"
            follower.transport.lose = original
            await pending
            fresh_at = runtime._reads.fresh_at
            cluster.cut_off = {follower.id}
            await asyncio.sleep(1.0)
            age = now() - fresh_at
            answers: list[BaseException | None] = []
            runtime.read_barrier(answers.append, max_staleness=age + 0.001)
            assert answers == [None], "at once"
            runtime.read_barrier(answers.append, timeout=0.1, max_staleness=age - 0.001)
            runtime.read_barrier(answers.append, timeout=0.1)
            assert answers == [None]
            await asyncio.sleep(0.2)
            assert [type(answer) for answer in answers[1:]] == [RequestTimeout] * 2

    async def test_age_counts_from_the_question_and_not_from_the_answer(self) -> None:
        async with Cluster() as cluster:
            follower = await cluster.follower()
            runtime = follower.runtime
            await runtime.barrier()
            take = follower.transport.receive

            def slow(group: int, message: Message) -> bool:
                if isinstance(message, ReadIndexReply):
                    asyncio.get_running_loop().call_later(0.05, take, group, message)
                    return True
                return take(group, message)

            follower.transport.receive = slow  # type: ignore[method-assign]
            asked = asyncio.get_running_loop().time()
            await runtime.barrier()
            assert asyncio.get_running_loop().time() - asked >= 0.049
            assert runtime._reads.fresh_at <= asked + 0.001


class TestStart:
    """What a runtime finds when it starts."""

    async def test_a_term_without_a_log_is_not_a_members_storage(self) -> None:
        storage = MemoryStorage()
        storage.load()
        done = asyncio.get_running_loop().create_future()
        storage.append(HardState(3, 1), (), done.set_result)
        await done
        with pytest.raises(UsageError, match="a term but no log"):
            await make(MemoryStorage(storage)).start()

    async def test_an_empty_storage_needs_a_configuration(self) -> None:
        with pytest.raises(UsageError, match="there are no voters"):
            await make(MemoryStorage(), Configuration()).start()

    async def test_a_log_that_cannot_be_read_is_reported(self) -> None:
        async with Cluster() as cluster:
            follower = await cluster.follower()
            await follower.stop()

            def refuse(operation: str, path: Path) -> None:
                raise PermissionError(13, "Permission denied", str(path))

            follower.files.before = refuse
            with pytest.raises(DataDirError, match="Permission denied"):
                await follower.start()
            follower.files.before = follower._before
            await follower.transport.close()
            await follower.start()

    async def test_before_it_every_request_is_refused(self) -> None:
        runtime = make(MemoryStorage())
        with pytest.raises(Stopped, match="not running"):
            await runtime.submit(b"x")
        with pytest.raises(Stopped, match="not started"):
            _ = runtime.leader_id
        await runtime.close()


def make(storage: MemoryStorage, initial: Configuration | None = None) -> Runtime:
    return Runtime(
        Journal(),
        config=Config(id=1),
        initial=Configuration((1,)) if initial is None else initial,
        storage=storage,
        transport=ChannelNetwork().transport(1, 1),
    )
