"""Which configuration is in effect: the last one in the log, committed or not (dissertation 4.1)."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from oarlock.errors import UsageError, WireError, invariant
from oarlock.raft.types import Configuration, Entry, EntryKind, HardState, Index

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Configuration)


def encode_configuration(configuration: Configuration) -> bytes:
    return _encoder.encode(configuration)


def decode_configuration(data: bytes) -> Configuration:
    """The configuration in an entry's data. Raises `WireError` if there is no well-formed one."""
    try:
        configuration = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise WireError(f"a configuration entry cannot be read: {error}") from None
    if problem := configuration.problem():
        raise WireError(f"a configuration entry is not valid: {problem}")
    return configuration


def bootstrap(configuration: Configuration) -> tuple[HardState, tuple[Entry, ...]]:
    """What every initial member stores before its first start: the configuration as entry 1 of term 1.

    All of them must be given equal configurations: then they start with equal logs, as if a leader of term 1
    had replicated the entry to all.

    Raises:
        UsageError: the configuration is not well formed, or joint.
    """
    if problem := configuration.problem():
        raise UsageError(f"not a configuration to start with: {problem}")
    if configuration.joint:
        raise UsageError("not a configuration to start with: it is joint")
    entry = Entry(1, 1, EntryKind.CONFIGURATION, encode_configuration(configuration))
    return HardState(term=1, commit_index=1), (entry,)


class ConfigurationHistory:
    """The configurations in the log, so that a truncation falls back to the one before."""

    def __init__(self) -> None:
        self._stack: list[tuple[Index, Configuration]] = [(0, Configuration())]

    @property
    def current(self) -> Configuration:
        return self._stack[-1][1]

    @property
    def index(self) -> Index:
        """Where the current configuration stands in the log; 0 if there is none."""
        return self._stack[-1][0]

    def appended(self, entries: Iterable[Entry]) -> bool:
        """Take note of appended entries. True if the configuration changed."""
        changed = False
        for entry in entries:
            if entry.kind is EntryKind.CONFIGURATION:
                invariant(entry.index > self.index, "configurations are appended in order of index")
                self._stack.append((entry.index, decode_configuration(entry.data)))
                changed = True
        return changed

    def truncated(self, index: Index) -> bool:
        """Forget configurations at and after `index`. True if the configuration changed."""
        changed = False
        while len(self._stack) > 1 and self._stack[-1][0] >= index:
            self._stack.pop()
            changed = True
        return changed
