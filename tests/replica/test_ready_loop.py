"""The order of duties, with a real core between a storage, a transport and a machine that write down all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any

import google_crc32c
import pytest

from oarlock.errors import Busy, DiskFailure, InvariantViolated
from oarlock.machine import Command
from oarlock.raft import Config, Configuration, Entry, EntryKind, HardState, Member, Message, Raft, bootstrap
from oarlock.raft.membership import encode_configuration
from oarlock.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    InstallSnapshot,
    InstallSnapshotReply,
    PreVote,
    PreVoteReply,
    Propose,
    ProposeReply,
    ReadIndex,
    ReadIndexReply,
    RequestVote,
    RequestVoteReply,
)
from oarlock.raft.types import LogBase, Recovered, Snapshot
from oarlock.replica.changes import Changes
from oarlock.replica.conditions import Conditions
from oarlock.replica.fetching import Fetching
from oarlock.replica.observations import Observations
from oarlock.replica.proposals import Proposals
from oarlock.replica.reads import Reads
from oarlock.replica.ready_loop import ReadyLoop
from oarlock.replica.snapshots import SnapshotPolicy, Snapshots
from oarlock.storage import MemorySnapshots
from tests.replica.cluster import at_once

US, LEADER, OTHER = 1, 2, 3
GROUP = 7
SNAPSHOT = b"the state"


class Bench:
    """Member 1 of three, whose surroundings are this object: storage, transport and machine in one."""

    def __init__(self) -> None:
        members = tuple(Member(id_, f"m{id_}") for id_ in (US, LEADER, OTHER))
        hard_state, entries = bootstrap(Configuration((US, LEADER, OTHER), members=members))
        loop = asyncio.get_running_loop()
        config = Config(id=US, election_timeout=1.0, heartbeat_interval=0.1)
        self.raft = Raft(config, hard_state, entries, random=random.Random(1), now=loop.time())
        self.proposals = Proposals(5, 5, count_max=10, bytes_max=1000, batch_bytes_max=1000)
        self.reads = Reads(5, count_max=10, retry_after=1.0)
        self.failures: list[BaseException] = []
        self.events: list[str] = []
        """What storage, transport and machine were asked to do about snapshots."""
        self.ready_loop: ReadyLoop
        self.configurations: list[int] = []
        self.conditions = Conditions()
        parts: dict[str, Any] = {
            "clock": loop.time,
            "in_thread": at_once,
            "wake": lambda: self.ready_loop.schedule(),
            "fail": self.failures.append,
        }
        self.snapshot_storage = MemorySnapshots()
        snapshots = Snapshots(
            self.raft,
            self,  # type: ignore[arg-type]
            self.snapshot_storage,
            self,
            policy=SnapshotPolicy(),
            stored=None,
            **parts,
        )
        fetching = Fetching(
            self.raft,
            self,  # type: ignore[arg-type]
            self.snapshot_storage,
            self,
            GROUP,
            on_installed=snapshots.installed,
            **parts,
        )
        changes = Changes(
            self.raft,
            self.conditions,
            first_number=5,
            clock=loop.time,
            wake=parts["wake"],
            removed=loop.create_future(),
        )
        self.ready_loop = ReadyLoop(
            self.raft,
            storage=self,
            transport=self,
            group=GROUP,
            machine=self,  # type: ignore[arg-type]  # `close` is the storage's; neither is called here
            proposals=self.proposals,
            reads=self.reads,
            snapshots=snapshots,
            fetching=fetching,
            changes=changes,
            conditions=self.conditions,
            observations=Observations(),
            clock=loop.time,
            on_configuration=lambda: self.configurations.append(self.raft.configuration_index),
            on_failure=self.failures.append,
        )
        self.sent: list[Message] = []
        self.storing: list[
            tuple[HardState | None, Sequence[Entry], Callable[[BaseException | None], None]]
        ] = []
        self.stores = 0
        self.applied: list[bytes] = []
        self.trouble: Exception | None = None
        """What the machine raises."""
        self.storage_trouble: Exception | None = None
        self.ready_loop.schedule()

    # Storage.

    def load(self) -> Recovered:
        raise AssertionError("the loop does not load")

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        on_durable: Callable[[BaseException | None], None],
        base: LogBase | None = None,
    ) -> None:
        if self.storage_trouble is not None:
            raise self.storage_trouble
        self.stores += 1
        self.events.append(f"store {len(entries)} behind {base}")
        self.storing.append((hard_state, entries, on_durable))

    def compact(self, index: int) -> None: ...

    async def close(self) -> None: ...

    # Transport.

    def send(self, group: int, messages: Iterable[Message]) -> None:
        assert group == GROUP
        self.sent += messages

    def register(self, group: int, on_messages: Callable[[list[Message]], None], **_: Any) -> None: ...

    def set_removed(self, group: int, removed: Iterable[int]) -> None: ...

    def serve_snapshots(self, group: int, open_snapshot: Any) -> None: ...

    async def fetch_snapshot(
        self, group: int, source: int, index: int, offset: int
    ) -> AsyncGenerator[bytes, None]:
        self.events.append(f"fetch {index} from {source}")
        yield SNAPSHOT[offset:]

    def unregister(self, group: int) -> None: ...

    def set_members(self, group: int, members: Iterable[Member]) -> None: ...

    async def start(self) -> None: ...

    # Machine.

    applied_index = 0
    can_snapshot = True

    def apply(self, commands: Sequence[Command], applied_index: int) -> list[Any]:
        if self.trouble is not None:
            raise self.trouble
        self.applied += [command.data for command in commands]
        return [None for _ in commands]

    def prepare(self, chunks: Iterable[bytes]) -> bytes:
        return b"".join(chunks)

    def install(self, prepared: bytes, applied_index: int) -> None:
        self.events.append(f"install {prepared!r} as of {applied_index}")

    # What a test does.

    async def receive(self, *messages: Message) -> list[Message]:
        """Take messages, run, and return what was sent meanwhile."""
        self.ready_loop.receive(list(messages))
        return await self.run()

    async def run(self) -> list[Message]:
        self.sent.clear()
        for _ in range(5):
            await asyncio.sleep(0)
        return list(self.sent)

    async def durable(self, error: BaseException | None = None) -> list[Message]:
        """The oldest write is done."""
        _, _, on_durable = self.storing.pop(0)
        self.sent.clear()
        on_durable(error)
        return list(self.sent) + await self.run()


def append(*terms: int, previous: tuple[int, int] = (1, 1), commit: int = 1, round: int = 1) -> AppendEntries:
    """From the leader: commands of these terms behind `previous`."""
    entries = tuple(
        Entry(index, term, EntryKind.COMMAND, b"t" * 16 + b"%d" % index)
        for index, term in enumerate(terms, previous[0] + 1)
    )
    return AppendEntries(2, LEADER, US, *previous, commit, entries, round)


def acknowledged(messages: list[Message]) -> list[int]:
    """Of the entries behind the first, which was there from the start: rounds are answered at once."""
    replies = [message for message in messages if isinstance(message, AppendEntriesReply)]
    return [reply.match_index for reply in replies if reply.match_index > 1]


async def test_entries_are_acknowledged_when_they_are_durable_and_not_before() -> None:
    bench = Bench()
    assert await bench.receive(append(2, 2)) == []
    assert acknowledged(await bench.durable()) == [3]


async def test_a_vote_is_told_when_it_is_durable_and_not_before() -> None:
    bench = Bench()
    assert await bench.receive(RequestVote(5, OTHER, US, 9, 4)) == []
    [(hard_state, _, _)] = bench.storing
    assert hard_state is not None
    assert (hard_state.term, hard_state.voted_for) == (5, OTHER)
    [vote] = await bench.durable()
    assert isinstance(vote, RequestVoteReply)
    assert vote.granted


async def test_a_promise_with_nothing_to_store_waits_for_the_writes_before_it() -> None:
    """The same entries again, while they are still being written: they may not be acknowledged yet."""
    bench = Bench()
    await bench.receive(append(2))
    assert await bench.receive(append(2, round=2)) == []
    assert bench.stores == 1
    assert acknowledged(await bench.durable()) == [2, 2]


async def test_each_promise_waits_for_its_own_write() -> None:
    bench = Bench()
    await bench.receive(append(2))
    await bench.receive(append(2, previous=(2, 2)))
    await bench.receive(append(2, previous=(2, 2), round=2))
    assert bench.stores == 2
    assert acknowledged(await bench.durable()) == [2]
    assert acknowledged(await bench.durable()) == [3, 3]


async def test_a_leader_replicates_while_its_own_disk_writes() -> None:
    bench = Bench()
    await lead(bench)
    bench.proposals.add(b"x", lambda result, error: None, None, 5, asyncio.get_running_loop().time())
    bench.ready_loop.schedule()
    sent = await bench.run()
    assert [len(message.entries) for message in sent if isinstance(message, AppendEntries)] == [1, 1]
    assert len(bench.storing) == 1


async def lead(bench: Bench) -> None:
    """Let the member win an election and commit its no-op."""
    await bench.run()
    await asyncio.sleep(bench.raft.deadline - asyncio.get_running_loop().time())
    await asyncio.sleep(0)
    assert bench.sent
    assert all(isinstance(message, PreVote) for message in bench.sent)
    assert await bench.receive(PreVoteReply(2, LEADER, US, True)) == []
    requests = await bench.durable()
    assert all(isinstance(message, RequestVote) for message in requests)
    await bench.receive(RequestVoteReply(2, LEADER, US, True))
    await bench.durable()
    await bench.receive(*(AppendEntriesReply(2, peer, US, True, 2, 1) for peer in (LEADER, OTHER)))
    assert bench.raft.commit_index == 2


async def test_a_candidate_asks_for_votes_when_its_own_is_durable() -> None:
    await lead(Bench())


async def test_committed_entries_are_applied_once_in_order_and_only_when_durable_here() -> None:
    bench = Bench()
    await bench.receive(append(2, 2, commit=3))
    assert bench.applied == []
    await bench.durable()
    assert bench.applied == [b"2", b"3"]
    await bench.receive(append(2, 2, commit=3, round=2), append(2, previous=(3, 2), commit=4, round=3))
    await bench.durable()
    assert bench.applied == [b"2", b"3", b"4"]


async def test_what_arrives_in_one_turn_is_stored_and_answered_together() -> None:
    bench = Bench()
    await bench.receive(*(append(2, previous=(index, min(index, 2))) for index in range(1, 9)))
    assert bench.stores == 1
    assert acknowledged(await bench.durable())[-1] == 9


async def test_a_message_that_no_correct_member_sends_is_dropped_and_the_rest_is_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    nonsense = AppendEntries(2, LEADER, US, 1, 1, 1, (Entry(9, 2),), 1)
    await bench.receive(nonsense, append(2))
    assert acknowledged(await bench.durable()) == [2]
    assert not bench.failures
    assert "no correct member sends" in caplog.text


async def test_a_refused_batch_is_answered_or_sent_again_in_a_later_term() -> None:
    bench = Bench()
    await bench.receive(append(2))
    await bench.durable()
    errors: list[BaseException | None] = []
    now = asyncio.get_running_loop().time()
    bench.proposals.add(b"x", lambda result, error: errors.append(error), None, 60, now)
    bench.ready_loop.schedule()
    [first] = await bench.run()
    assert isinstance(first, Propose)
    assert await bench.receive(ProposeReply(2, LEADER, US, first.batch)) == []
    await bench.receive(AppendEntries(3, OTHER, US, 2, 2, 1, (), 1))
    again = next(message for message in await bench.durable() if isinstance(message, Propose))
    assert (again.term, again.to) == (3, OTHER)
    assert again.commands == first.commands
    assert await bench.receive(ProposeReply(3, OTHER, US, again.batch, busy=True)) == []
    assert [type(error) for error in errors] == [Busy]


def install_snapshot(index: int, term: int, round: int = 1) -> InstallSnapshot:
    members = tuple(Member(id_, f"m{id_}") for id_ in (US, LEADER, OTHER))
    snapshot = Snapshot(index, term, Configuration((US, LEADER, OTHER), members=members), 1)
    checksum = google_crc32c.value(SNAPSHOT)
    return InstallSnapshot(2, LEADER, US, snapshot, len(SNAPSHOT), checksum, round)


async def until(bench: Bench, event: str) -> None:
    for _ in range(100):
        if any(event in seen for seen in bench.events):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"no {event}: {bench.events}")


async def test_an_offered_snapshot_is_made_durable_then_installed_then_acknowledged() -> None:
    bench = Bench()
    await bench.receive(install_snapshot(50, 2))
    await bench.durable()  # the term
    bench.events.clear()
    bench.sent.clear()
    await until(bench, "install")
    assert bench.events == [
        "fetch 50 from 2",
        "store 0 behind LogBase(index=50, term=2)",
        "install b'the state' as of 50",
    ]
    assert bench.snapshot_storage.load() is not None, "durable before anything else"
    assert bench.raft.applied_index == 50
    assert not [message for message in bench.sent if getattr(message, "match_index", 0) == 50]
    promises = await bench.durable()
    assert [message.match_index for message in promises if isinstance(message, InstallSnapshotReply)] == [50]
    await bench.receive(append(2, previous=(50, 2), commit=51))
    await bench.durable()
    assert bench.applied == [b"51"]


async def test_what_waits_for_entries_that_a_snapshot_replaced_is_answered() -> None:
    bench = Bench()
    now = asyncio.get_running_loop().time()
    await bench.receive(append(2))
    answers: list[Any] = []
    bench.proposals.add(b"x", lambda result, error: answers.append(error), None, 60, now)
    bench.reads.add(answers.append, 60, now)
    bench.ready_loop.schedule()
    await bench.run()
    sent = await bench.durable()
    [question] = [message for message in sent if isinstance(message, ReadIndex)]
    await bench.receive(ReadIndexReply(2, LEADER, US, question.context, 40))
    assert answers == []
    await bench.receive(install_snapshot(50, 2))
    await until(bench, "install")
    assert sorted(map(str, answers)) == ["None", "a snapshot took the place of the command's entry"]


async def test_a_new_configuration_is_told_when_it_is_appended_and_when_it_is_committed() -> None:
    bench = Bench()
    await bench.receive(append(2))
    bench.configurations.clear()
    members = tuple(Member(id_, f"m{id_}") for id_ in (US, LEADER))
    entry = Entry(
        3, 2, EntryKind.CONFIGURATION, encode_configuration(Configuration((US, LEADER), members=members))
    )
    await bench.receive(AppendEntries(2, LEADER, US, 2, 2, 1, (entry,), 2))
    assert bench.configurations == [3], "in effect when it is appended"
    await bench.durable()
    await bench.durable()
    await bench.receive(AppendEntries(2, LEADER, US, 3, 2, 3, (), 3))
    assert bench.configurations == [3, 3], "and again when it is committed"


async def test_a_read_that_the_leader_cannot_confirm_is_asked_of_the_next_leader_at_once() -> None:
    bench = Bench()
    await bench.receive(append(2))
    await bench.durable()
    answers: list[BaseException | None] = []
    bench.reads.add(answers.append, 60, asyncio.get_running_loop().time())
    bench.ready_loop.schedule()
    [first] = await bench.run()
    assert isinstance(first, ReadIndex)
    assert await bench.receive(ReadIndexReply(2, LEADER, US, first.context, 0)) == []
    await bench.receive(AppendEntries(3, OTHER, US, 2, 2, 1, (), 1))
    again = next(message for message in await bench.durable() if isinstance(message, ReadIndex))
    assert (again.term, again.to) == (3, OTHER)
    await bench.receive(ReadIndexReply(3, OTHER, US, again.context, 2))
    assert answers == []
    await bench.receive(AppendEntries(3, OTHER, US, 2, 2, 2, (), 2))
    assert answers == [None]


class TestFailure:
    """After any failure nothing is sent, stored, applied or answered, whatever comes in."""

    async def silence(self, bench: Bench) -> None:
        """Poke it in every way, for a long time."""
        applied, stores = list(bench.applied), bench.stores
        bench.trouble = bench.storage_trouble = None
        sent = await bench.receive(append(2, 2, 2, commit=4, round=5), RequestVote(9, OTHER, US, 9, 8))
        bench.ready_loop.schedule()
        while bench.storing:
            sent += await bench.durable()
        bench.sent.clear()
        await asyncio.sleep(30)
        await asyncio.sleep(30)
        bench.ready_loop.schedule()
        await asyncio.sleep(1)
        assert sent == []
        assert bench.sent == []
        assert bench.applied == applied
        assert bench.stores == stores

    async def test_of_a_write(self) -> None:
        bench = Bench()
        await bench.receive(append(2, commit=2))
        await bench.receive(append(2, previous=(2, 2)))
        failure = DiskFailure("broken")
        assert await bench.durable(failure) == []
        assert bench.failures == [failure]
        await self.silence(bench)
        assert bench.failures == [failure]

    async def test_of_the_state_machine(self) -> None:
        bench = Bench()
        await bench.receive(append(2))
        await bench.durable()
        bench.trouble = MemoryError()
        await bench.receive(append(previous=(2, 2), commit=2, round=2))
        assert bench.failures == [bench.trouble]
        await self.silence(bench)

    async def test_of_the_storage_itself(self) -> None:
        bench = Bench()
        bench.storage_trouble = InvariantViolated("queue")
        await bench.receive(append(2))
        assert bench.failures == [bench.storage_trouble]
        await self.silence(bench)

    async def test_of_the_core(self) -> None:
        bench = Bench()
        await bench.receive(append(2))
        await bench.receive(AppendEntries(2, LEADER, OTHER, 1, 1, 1))  # delivered to the wrong member
        [failure] = bench.failures
        assert isinstance(failure, InvariantViolated)
        await self.silence(bench)

    async def test_a_machine_with_too_few_results_is_stopped(self) -> None:
        bench = Bench()
        bench.apply = lambda commands, applied_index: []  # type: ignore[method-assign]
        await bench.receive(append(2, commit=2))
        await bench.durable()
        [failure] = bench.failures
        assert "one result per command" in str(failure)


async def test_a_stopped_loop_does_nothing_more() -> None:
    bench = Bench()
    await bench.receive(append(2, commit=2))
    bench.ready_loop.stop()
    assert await bench.durable() == []
    await asyncio.sleep(30)
    assert bench.sent == []
    assert bench.applied == []
    assert bench.failures == []
