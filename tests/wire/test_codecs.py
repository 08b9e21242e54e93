"""Messages and log batches to bytes and back; nothing but `WireError` for bytes that are neither."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oarlock.errors import WireError
from oarlock.raft import messages as raft_messages
from oarlock.raft.messages import (
    AppendEntries,
    ChangeMembership,
    ChangeMembershipReply,
    InstallSnapshot,
    Message,
    PreVoteReply,
    RequestVote,
    RequestVoteReply,
)
from oarlock.raft.types import Change, Configuration, Entry, EntryKind, HardState, Member, Snapshot
from oarlock.wire import (
    Fetch,
    Hello,
    Invitation,
    Join,
    Refusal,
    RefusalCode,
    Welcome,
    decode_batch,
    decode_handshake,
    decode_messages,
    encode_batch,
    encode_handshake,
    encode_messages,
)
from oarlock.wire.framing import FRAME_HEADER_BYTES
from oarlock.wire.handshake import Handshake

numbers = st.integers(0, 2**64 - 1)


@st.composite
def entry_lists(draw: st.DrawFn) -> list[Entry]:
    first = draw(st.integers(1, 2**63))
    terms = sorted(draw(st.lists(numbers, max_size=6)))
    return [
        Entry(first + n, term, draw(st.sampled_from(EntryKind)), draw(st.binary(max_size=50)), draw(numbers))
        for n, term in enumerate(terms)
    ]


ids = st.integers(1, 2**64 - 1)
texts = st.text(max_size=20)
urls = st.lists(texts, max_size=2).map(tuple)
members = st.builds(Member, ids, texts, urls, urls, numbers)
id_tuples = st.lists(ids, max_size=3).map(tuple)
member_tuples = st.lists(members, max_size=3).map(tuple)
changes = st.builds(
    Change, member_tuples, st.booleans(), id_tuples, id_tuples, id_tuples, member_tuples, numbers
)


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    def some(of: list[int]) -> tuple[int, ...]:
        return tuple(sorted(draw(st.sets(st.sampled_from(of))))) if of else ()

    everyone = draw(st.lists(ids, min_size=1, max_size=6, unique=True))
    learners = some(everyone[1:])
    voters = tuple(sorted({*everyone} - {*learners}))
    outgoing = some(list(voters))
    demoted = some(sorted({*outgoing} - {*voters}))
    everyone_listed = tuple(
        msgspec.structs.replace(draw(members), id=id_) for id_ in sorted({*voters, *outgoing, *learners})
    )
    gone = draw(st.lists(ids.filter(lambda id_: id_ not in everyone), max_size=2, unique=True))
    return Configuration(
        voters, outgoing, learners, everyone_listed, demoted, some(list(learners)), tuple(gone)
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    index = draw(ids)
    return Snapshot(index, draw(ids), draw(configurations()), draw(st.integers(0, index)), draw(numbers))


def message_strategy(kind: type[Any]) -> st.SearchStrategy[Message]:
    """Any message of a kind that a core may send."""
    values: dict[Any, st.SearchStrategy[Any]] = {
        "int": numbers,
        "bool": st.booleans(),
        "str": st.text(max_size=20),
        "Change": changes,
        "Snapshot": snapshots(),
        "tuple[bytes, ...]": st.lists(st.binary(max_size=30), max_size=4).map(tuple),
    }
    names = {"Term": "int", "NodeId": "int", "Index": "int"}
    fields = {
        field.name: values[names.get(text, text)]
        for field in msgspec.structs.fields(kind)
        if (text := annotation(kind, field.name)) != "tuple[Entry, ...]"
    }
    if kind is InstallSnapshot:
        fields["size"], fields["checksum"] = st.integers(0, 2**60), st.integers(0, 2**32 - 1)
    if kind is not AppendEntries:
        return st.builds(kind, **fields)
    del fields["previous_index"]
    return entry_lists().flatmap(
        lambda entries: st.builds(
            kind,
            entries=st.just(tuple(entries)),
            previous_index=st.just(entries[0].index - 1) if entries else numbers,
            **fields,
        )
    )


def annotation(kind: type[Any], name: str) -> str:
    for base in kind.__mro__:
        if name in getattr(base, "__annotations__", {}):
            return str(base.__annotations__[name])
    raise AssertionError(name)


any_message = st.one_of([message_strategy(kind) for kind in get_args(Message)])


@given(st.lists(any_message, max_size=5))
def test_messages_come_back_as_they_were(messages: list[Message]) -> None:
    assert decode_messages(encode_messages(messages)) == messages


def test_every_message_kind_is_on_the_wire() -> None:
    kinds = {
        kind
        for kind in vars(raft_messages).values()
        if isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and kind.__module__ == raft_messages.__name__
    }
    assert {kind.__name__ for kind in kinds} - {"_Message"} == {kind.__name__ for kind in get_args(Message)}


@given(st.none() | st.builds(HardState, numbers, numbers, numbers), entry_lists())
def test_batches_come_back_as_they_were(hard_state: HardState | None, entries: list[Entry]) -> None:
    assert decode_batch(encode_batch(hard_state, entries)) == (hard_state, entries)


@st.composite
def invitations(draw: st.DrawFn) -> Invitation:
    listed = draw(st.lists(members, min_size=1, max_size=4, unique_by=lambda member: member.id))
    return Invitation(draw(numbers), draw(st.sampled_from(listed)).id, tuple(listed))


hellos = st.builds(Hello, numbers, numbers, numbers, numbers, numbers)
handshakes = (
    hellos
    | st.builds(Refusal, st.text(max_size=50), numbers)
    | st.builds(Welcome, numbers)
    | st.builds(Fetch, hellos, numbers, numbers, numbers)
    | st.builds(Join, numbers, numbers, urls, texts)
    | invitations()
)


@given(handshakes)
def test_handshakes_come_back_as_they_were(message: Handshake) -> None:
    assert decode_handshake(encode_handshake(message)[FRAME_HEADER_BYTES:]) == message


def decode_anything(payload: bytes) -> None:
    for decode in (decode_messages, decode_batch, decode_handshake):
        try:
            decode(payload)
        except WireError as error:
            assert len(str(error)) < 500  # noqa: PT017


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_wire_errors(payload: bytes) -> None:
    decode_anything(payload)


@given(
    st.lists(any_message, min_size=1, max_size=3).map(encode_messages)
    | handshakes.map(lambda message: encode_handshake(message)[FRAME_HEADER_BYTES:]),
    st.data(),
)
def test_mutated_payloads_raise_nothing_but_wire_errors(original: bytes, data: st.DataObject) -> None:
    payload = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    decode_anything(bytes(payload))
    decode_anything(bytes(payload[: data.draw(st.integers(0, len(payload)))]))


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
)
flat = scalars | st.lists(scalars, max_size=4) | st.dictionaries(st.text(max_size=3), scalars, max_size=2)
anything = flat | st.lists(flat, max_size=4)


@given(
    st.lists(
        st.integers(0, 20).flatmap(lambda tag: st.lists(anything, max_size=9).map(lambda rest: [tag, *rest]))
    )
)
def test_well_formed_messagepack_of_the_wrong_shape_raises_nothing_but_wire_errors(value: Any) -> None:
    decode_anything(msgspec.msgpack.encode(value))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x91" * 100_000,  # nesting
        b"\xdd\xff\xff\xff\xff\x01",  # an array of four billion elements, of which one is there
        b"\xc6\xff\xff\xff\xff",  # four gigabytes of bytes, none of which is there
        msgspec.msgpack.encode([[4, 1, 1, 2, True, 0]])[:-1] + b"\xa2\xff\xff",  # text that is not UTF-8
        msgspec.msgpack.encode([[3, 1, 1, 2, 5, 5, *([[]] * 1000)]]) + b"\x00",  # bytes behind the end
        b"\x91\x97\x03\x01\x01\x02\x05\x05" + b"\x91" * 100_000,  # nesting in a field that is skipped
    ],
)
def test_hostile_payloads_raise_wire_errors(payload: bytes) -> None:
    for decode in (decode_messages, decode_batch, decode_handshake):
        with pytest.raises(WireError):
            decode(payload)


replace = msgspec.structs.replace
TWO = Configuration((1, 2), members=(Member(1, "a"), Member(2, "b")))
SNAPSHOT = Snapshot(5, 2, TWO, 1, 7)
WRONG_SNAPSHOTS: list[dict[str, Any]] = [
    {"index": 0, "configuration_index": 0},
    {"index": -1},
    {"term": 0},
    {"configuration_index": 6},
    {"time": -1},
    {"configuration": Configuration()},
    {"configuration": Configuration((2, 1))},
    {"configuration": Configuration((-1, 1))},
    {"configuration": Configuration((1,), learners=(1,))},
    {"configuration": Configuration((1, 2), members=(Member(1, "a"),))},
    {"configuration": Configuration((1,), demoted=(3,))},
    {"configuration": Configuration((1,), joining=(3,))},
    {"configuration": Configuration((1,), removed=(1,))},
    {"configuration": Configuration((1,), removed=(-1,))},
    {"configuration": Configuration((1,), members=(Member(1, "a", priority=-3),))},
]


def test_messages_that_no_core_sends_are_refused() -> None:
    negative: list[Message] = [
        RequestVote(-1, 1, 2, 0, 0),
        RequestVote(1, 1, 2, -5, 0),
        AppendEntries(1, 1, 2, 0, 0, -1),
        AppendEntries(1, 1, 2, -3, 0, 0, (Entry(-2, 1),)),
        AppendEntries(1, 1, 2, 0, 0, 0, (Entry(2, 1),)),
        AppendEntries(1, 1, 2, 0, 0, 0, (Entry(1, 2), Entry(2, 1))),
        AppendEntries(1, 1, 2, 0, 0, 0, (Entry(1, -1),)),
        AppendEntries(1, 1, 2, 0, 0, 0, (Entry(1, 1), Entry(3, 1))),
        AppendEntries(1, 1, 2, 0, 0, 0, (Entry(1, 1, time=-1),)),
        InstallSnapshot(1, 1, 2, SNAPSHOT, -1, 0),
        InstallSnapshot(1, 1, 2, SNAPSHOT, 1, 2**32),
        InstallSnapshot(1, 1, 2, SNAPSHOT, 2**64 - 1, 0),
        *(InstallSnapshot(1, 1, 2, replace(SNAPSHOT, **wrong), 1, 0) for wrong in WRONG_SNAPSHOTS),
        ChangeMembership(1, 1, 2, 1, Change(add=(Member(-1, "a"),))),
        ChangeMembership(1, 1, 2, 1, Change(update=(Member(1, "a", priority=-1),))),
        ChangeMembership(1, 1, 2, 1, Change(remove=(1, -2))),
        ChangeMembership(1, 1, 2, 1, Change(expected_index=-1)),
        ChangeMembership(1, 1, 2, 1, Change(remove=(1,) * 1001)),
        ChangeMembership(1, 1, 2, 1, Change(add=(Member(1, "a", ("u",) * 1001),))),
    ]
    for message in negative:
        with pytest.raises(WireError, match="malformed"):
            decode_messages(encode_messages([message]))


def test_complaints_are_short_however_long_what_they_are_about_is() -> None:
    configuration = Configuration(tuple(range(2**63 + 1000, 2**63, -1)))
    message = InstallSnapshot(1, 1, 2, replace(SNAPSHOT, configuration=configuration), 1, 0)
    with pytest.raises(WireError, match="sorted") as caught:
        decode_messages(encode_messages([message]))
    assert len(str(caught.value)) < 500


def test_lists_that_no_cluster_has_are_refused_without_looking_through_them() -> None:
    configuration = Configuration(tuple(range(1, 1_000_001)))
    message = InstallSnapshot(1, 1, 2, replace(SNAPSHOT, configuration=configuration), 1, 0)
    with pytest.raises(WireError, match="voters has 1000000 items"):
        decode_messages(encode_messages([message]))


def test_texts_for_people_are_cut() -> None:
    """They are kept, to be shown: nobody may have us keep megabytes."""
    long, short = "x" * 5_000_000, "x" * 1000
    messages: list[Message] = [
        PreVoteReply(1, 1, 2, False, long),
        RequestVoteReply(1, 1, 2, False, long),
        ChangeMembershipReply(1, 1, 2, 1, 0, 3, long),
    ]
    assert decode_messages(encode_messages(messages)) == [
        PreVoteReply(1, 1, 2, False, short),
        RequestVoteReply(1, 1, 2, False, short),
        ChangeMembershipReply(1, 1, 2, 1, 0, 3, short),
    ]


@pytest.mark.parametrize(
    "message",
    [
        Fetch(Hello(1, 1, 1, 1, 2), 1, -1, 0),
        Fetch(Hello(1, 1, 1, 1, 2), 1, 1, -1),
        Fetch(Hello(1, 1, 1, 1, 2), -1, 1, 0),
        Invitation(1, 2, (Member(1, "a"),)),
        Invitation(1, 0, (Member(0, "a"),)),
        Invitation(1, 1, (Member(1, "a"), Member(1, "b"))),
        Invitation(-1, 1, (Member(1, "a"),)),
        Invitation(1, 1, (Member(1, "a", priority=-1),)),
    ],
)
def test_handshakes_that_no_member_sends_are_refused(message: Handshake) -> None:
    with pytest.raises(WireError, match="malformed"):
        decode_handshake(encode_handshake(message)[FRAME_HEADER_BYTES:])


def test_batches_that_no_log_holds_are_refused() -> None:
    for hard_state, entries in [
        (HardState(-1, 0, 0), []),
        (None, [Entry(0, 1)]),
        (None, [Entry(3, 1), Entry(5, 1)]),
        (None, [Entry(3, 2), Entry(4, 1)]),
        (None, [Entry(3, 2, time=-1)]),
    ]:
        with pytest.raises(WireError):
            decode_batch(encode_batch(hard_state, entries))


def test_fields_that_a_newer_version_adds_are_skipped_and_missing_ones_filled_in() -> None:
    encoded = msgspec.msgpack.encode([[2, 1, 1, 2, True, "because", "new", 5]])
    assert decode_messages(encoded) == [PreVoteReply(1, 1, 2, True, "because")]
    assert decode_messages(msgspec.msgpack.encode([[2, 1, 1, 2, True]])) == [PreVoteReply(1, 1, 2, True)]
    refusal = msgspec.msgpack.encode([3, "go away"])
    assert decode_handshake(refusal) == Refusal("go away", RefusalCode.OTHER)


ENTRY = Entry(1, 2, EntryKind.CONFIGURATION, b"ab")


def test_layout_of_a_batch_is_fixed() -> None:
    """The log's promise, byte by byte."""
    batch = encode_batch(HardState(2, 3, 1), [replace(ENTRY, time=1000)])
    assert batch.hex() == "92930203019195010202c4026162cd03e8"


def test_a_batch_without_times_as_it_was_written_before_there_were_any_is_read() -> None:
    batch = bytes.fromhex("92930203019194010202c4026162")
    assert decode_batch(batch) == (HardState(2, 3, 1), [ENTRY])
    message = msgspec.msgpack.encode([[5, 2, 1, 2, 0, 0, 0, [[1, 2, 2, b"ab"]], 0]])
    assert decode_messages(message) == [AppendEntries(2, 1, 2, 0, 0, 0, (ENTRY,), 0)]
