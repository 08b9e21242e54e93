"""What the store refuses. Each of these leaves the state untouched, and is equal on every member.

They say what is wrong in our words; the texts and codes that etcd's clients know are in
`oarlock.etcd.errors`.
"""

from __future__ import annotations

from oarlock.errors import RequestError


class KvError(RequestError):
    """A request to the key-value store that cannot be carried out. Nothing was changed."""


class KeyNotProvided(KvError):
    """The key is empty."""

    def __init__(self) -> None:
        super().__init__("the key is empty: a key has at least one byte")


class KeyNotFound(KvError):
    """`ignore_value` or `ignore_lease` asks to keep what a key has, and there is no such key."""

    def __init__(self) -> None:
        super().__init__("there is no such key whose value or lease could be kept")


class ValueProvided(KvError):
    """`ignore_value` together with a value."""

    def __init__(self) -> None:
        super().__init__("a value was given together with ignore_value: drop one of them")


class LeaseProvided(KvError):
    """`ignore_lease` together with a lease."""

    def __init__(self) -> None:
        super().__init__("a lease was given together with ignore_lease: drop one of them")


class LeaseNotFound(KvError):
    """The lease to attach does not exist. Attributes: lease_id."""

    def __init__(self, lease_id: int) -> None:
        self.lease_id = lease_id
        super().__init__(f"there is no lease {lease_id:x}")


class InvalidSortOption(KvError):
    """A sort order or target that does not exist."""

    def __init__(self) -> None:
        super().__init__("there is no such sort order or target")


class FutureRevision(KvError):
    """A read at a revision that is not there yet. Attributes: revision (asked for), current."""

    def __init__(self, revision: int, current: int) -> None:
        self.revision = revision
        self.current = current
        super().__init__(f"revision {revision} is in the future: the store is at {current}")


class Compacted(KvError):
    """A read at a revision that compaction removed. Attributes: revision (asked for), oldest."""

    def __init__(self, revision: int, oldest: int) -> None:
        self.revision = revision
        self.oldest = oldest
        super().__init__(f"revision {revision} was compacted: the oldest is {oldest}")


class MalformedCommand(KvError):
    """A committed command whose bytes are no command of ours. Every member answers it with this."""
