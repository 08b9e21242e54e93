"""Messages and log batches to bytes and back; nothing but `WireError` for bytes that are neither."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oarlock.errors import WireError
from oarlock.raft import messages as raft_messages
from oarlock.raft.messages import AppendEntries, Message, PreVoteReply, RequestVote
from oarlock.raft.types import Entry, EntryKind, HardState
from oarlock.wire import (
    Hello,
    Refusal,
    Welcome,
    decode_batch,
    decode_handshake,
    decode_messages,
    encode_batch,
    encode_handshake,
    encode_messages,
)
from oarlock.wire.framing import FRAME_HEADER_BYTES

numbers = st.integers(0, 2**64 - 1)


@st.composite
def entry_lists(draw: st.DrawFn) -> list[Entry]:
    first = draw(st.integers(1, 2**63))
    terms = sorted(draw(st.lists(numbers, max_size=6)))
    return [
        Entry(first + n, term, draw(st.sampled_from(EntryKind)), draw(st.binary(max_size=50)))
        for n, term in enumerate(terms)
    ]


def message_strategy(kind: type[Any]) -> st.SearchStrategy[Message]:
    """Any message of a kind that a core may send."""
    values: dict[Any, st.SearchStrategy[Any]] = {
        "int": numbers,
        "bool": st.booleans(),
        "str": st.text(max_size=20),
        "tuple[bytes, ...]": st.lists(st.binary(max_size=30), max_size=4).map(tuple),
    }
    names = {"Term": "int", "NodeId": "int", "Index": "int"}
    fields = {
        field.name: values[names.get(text, text)]
        for field in msgspec.structs.fields(kind)
        if (text := annotation(kind, field.name)) != "tuple[Entry, ...]"
    }
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


handshakes = st.builds(Hello, numbers, numbers, numbers, numbers, numbers) | st.builds(
    Refusal, st.text(max_size=50)
)


@given(handshakes | st.builds(Welcome, numbers))
def test_handshakes_come_back_as_they_were(message: Hello | Welcome | Refusal) -> None:
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


@given(st.lists(any_message, min_size=1, max_size=3), st.data())
def test_mutated_messages_raise_nothing_but_wire_errors(messages: list[Message], data: st.DataObject) -> None:
    payload = bytearray(encode_messages(messages))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    decode_anything(bytes(payload))
    decode_anything(bytes(payload[: data.draw(st.integers(0, len(payload)))]))


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@given(
    st.lists(
        st.integers(0, 12).flatmap(lambda tag: st.lists(anything, max_size=9).map(lambda rest: [tag, *rest]))
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
    ]
    for message in negative:
        with pytest.raises(WireError, match="malformed"):
            decode_messages(encode_messages([message]))


def test_batches_that_no_log_holds_are_refused() -> None:
    for hard_state, entries in [
        (HardState(-1, 0, 0), []),
        (None, [Entry(0, 1)]),
        (None, [Entry(3, 1), Entry(5, 1)]),
        (None, [Entry(3, 2), Entry(4, 1)]),
    ]:
        with pytest.raises(WireError):
            decode_batch(encode_batch(hard_state, entries))


def test_fields_that_a_newer_version_adds_are_skipped_and_missing_ones_filled_in() -> None:
    encoded = msgspec.msgpack.encode([[2, 1, 1, 2, True, "because", "new", 5]])
    assert decode_messages(encoded) == [PreVoteReply(1, 1, 2, True, "because")]
    assert decode_messages(msgspec.msgpack.encode([[2, 1, 1, 2, True]])) == [PreVoteReply(1, 1, 2, True)]


def test_layout_of_a_batch_is_fixed() -> None:
    """The log's promise, byte by byte."""
    entries = [Entry(1, 2, EntryKind.CONFIGURATION, b"ab")]
    assert encode_batch(HardState(2, 3, 1), entries).hex() == "92930203019194010202c4026162"
