"""Header compression, and the memory that makes it cheap (RFC 7541).

Static table, dynamic table and Huffman code come from the `hpack` library. What is added here:

**Remembered header blocks.** A client that makes the same call again sends, once its encoder has settled, the
same bytes again: a row of indices into the dynamic table. The meaning of a block depends on nothing but its
bytes and the table; so a block whose decoding *left the table as it was* means the same until the table
changes. Such blocks are kept in a dictionary from bytes to `HeaderBlock`, and the dictionary is emptied
whenever the table changes. A request then costs one lookup, and whatever the application resolved from the
headers (its route) rides along in `HeaderBlock.memo`. The encoder of the client side remembers in the same
way.

**A decoder loop of our own** over the library's tables. Blocks that always contain something new (Go's client
sends ``grpc-timeout`` with another value each time) are decoded three times faster than by the library's
loop, and integers are bounded: a length spelled in thousands of bytes is refused instead of becoming a number
of thousands of digits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from hpack import Encoder as LibraryEncoder
from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.struct import HeaderTuple
from hpack.table import HeaderTable

from oarlock.http2.errors import ConnectionFault, ErrorCode
from oarlock.http2.limits import Limits

Headers = Sequence[tuple[bytes, bytes]]

_ENTRY_OVERHEAD: Final = 32  # RFC 7541, section 4.1
_STATIC: Final = HeaderTable.STATIC_TABLE
_STATIC_SIZE: Final = HeaderTable.STATIC_TABLE_LENGTH
_MAX_INTEGER_BYTES: Final = 5  # 35 bits: more than any length or index that can be right
SHRINK_TO_NOTHING: Final = b"\x20"
"""Dynamic table size update to 0: what an encoder that uses no dynamic table says when the peer lowers its
limit."""


class HeaderBlock:
    """One decoded header block. Shared by all streams that sent the same bytes, so it is never changed.

    Attributes:
        fields: names and values in order of arrival.
        oversize: the list was longer than allowed; ``fields`` is cut short and must not be used.
        memo: whatever the application resolved from the fields; None until it has.
        role: what the block was last validated as (see `oarlock.http2.headers`); empty if not yet.
        content_length: declared length of the body, once validated; None if not declared.
    """

    __slots__ = ("content_length", "fields", "memo", "oversize", "role")

    def __init__(self, fields: list[tuple[bytes, bytes]], oversize: bool = False) -> None:
        self.fields = fields
        self.oversize = oversize
        self.memo: Any = None
        self.role = ""
        self.content_length: int | None = None

    def get(self, name: bytes) -> bytes | None:
        """Value of the first field of that name."""
        for key, value in self.fields:
            if key == name:
                return value
        return None


class VersionedTable(HeaderTable):
    """The library's table, counting its changes."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.version += 1
        super().add(name, value)

    def resize(self, size: int) -> None:
        if size != self.maxsize:
            self.version += 1
            self.maxsize = size


class Decoder:
    """Decodes the peer's header blocks, in the order in which they arrive.

    Attributes:
        remembered: blocks by their bytes, valid for the present table. The connection looks here first and
        calls
            `decode` only for what is missing.
    """

    def __init__(self, limits: Limits) -> None:
        self._table = VersionedTable()
        self._limit = limits.max_header_list
        self._table_limit = limits.header_table
        self._table.maxsize = limits.header_table
        self._room = limits.remembered_blocks
        self._longest = limits.remembered_block_size
        self.remembered: dict[bytes, HeaderBlock] = {}

    def decode(self, data: bytes) -> HeaderBlock:
        """Decode one complete block and remember it if that is sound.

        Raises:
            ConnectionFault: COMPRESSION_ERROR; the tables of both sides may differ from here on.
        """
        version = self._table.version
        try:
            block = self._decode(data)
        except (IndexError, HPACKError) as error:
            reason = (
                str(error) if isinstance(error, HPACKError) else "header block ends in the middle of a field"
            )
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, reason) from None
        if self._table.version != version:
            self.remembered.clear()
        elif len(data) <= self._longest:
            if len(self.remembered) >= self._room:
                self.remembered.clear()
            self.remembered[data] = block
        return block

    def _decode(self, data: bytes) -> HeaderBlock:
        fields: list[tuple[bytes, bytes]] = []
        total = 0
        pos = 0
        end = len(data)
        while pos < end:
            first = data[pos]
            if first & 0x80:  # 6.1: both from a table
                index, pos = _integer(data, pos, 0x7F)
                field = self._entry(index)
            elif first & 0xE0 == 0x20:  # 6.3: dynamic table size update
                if total:
                    raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "table size update after a field")
                size, pos = _integer(data, pos, 0x1F)
                if size > self._table_limit:
                    raise ConnectionFault(
                        ErrorCode.COMPRESSION_ERROR, f"table size {size} over {self._table_limit}"
                    )
                self._table.resize(size)
                continue
            else:  # 6.2: literal, added to the table or not
                index, pos = _integer(data, pos, 0x3F if first & 0x40 else 0x0F)
                if index:
                    name = self._entry(index)[0]
                else:
                    name, pos = _string(data, pos)
                value, pos = _string(data, pos)
                field = (name, value)
                if first & 0x40:
                    self._table.add(name, value)
            total += len(field[0]) + len(field[1]) + _ENTRY_OVERHEAD
            # An oversize list is still decoded to its end, for the table's sake, but no longer collected.
            if total <= self._limit:
                fields.append(field)
        return HeaderBlock(fields, oversize=total > self._limit)

    def _entry(self, index: int) -> tuple[bytes, bytes]:
        if 0 < index <= _STATIC_SIZE:
            return _STATIC[index - 1]
        dynamic = self._table.dynamic_entries
        if not _STATIC_SIZE < index <= _STATIC_SIZE + len(dynamic):
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, f"no table entry {index}")
        return dynamic[index - _STATIC_SIZE - 1]


def _integer(data: bytes, pos: int, mask: int) -> tuple[int, int]:
    """Prefix integer at ``pos`` (RFC 7541, section 5.1); returns it and the position behind it."""
    value = data[pos] & mask
    pos += 1
    if value < mask:
        return value, pos
    for shift in range(0, 7 * _MAX_INTEGER_BYTES, 7):
        byte = data[pos]
        pos += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, pos
    raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "integer of more than 35 bits")


def _string(data: bytes, pos: int) -> tuple[bytes, int]:
    """String literal at ``pos`` (RFC 7541, section 5.2)."""
    huffman = data[pos] & 0x80
    length, pos = _integer(data, pos, 0x7F)
    end = pos + length
    if end > len(data):
        raise IndexError
    text = data[pos:end]
    return (decode_huffman(text) if huffman else text), end


class Encoder:
    """Encodes the blocks of a client's requests with the dynamic table, and remembers them.

    Attributes:
        table: counts its changes; blocks encoded at another ``table.version`` are void.

    A block has to be put on the wire in the order in which it was encoded, since both tables move with it.
    """

    def __init__(self) -> None:
        self._encoder = LibraryEncoder()
        self.table = VersionedTable()
        self._encoder.header_table = self.table

    def resize(self, limit: int) -> None:
        """The peer has announced SETTINGS_HEADER_TABLE_SIZE."""
        self.table.version += 1
        self._encoder.header_table_size = min(limit, HeaderTable.DEFAULT_SIZE)

    def encode(self, fields: Headers) -> tuple[bytes, bool]:
        """Encode; the flag tells whether the block may be sent again as it is, until `table.version`
        changes."""
        before = self.table.version
        resized = self.table.resized
        block = self._encoder.encode([HeaderTuple(name, value) for name, value in fields], huffman=False)
        return block, before == self.table.version and not resized


_NAME_INDEX: Final = {name: index for index, (name, _) in reversed(list(enumerate(_STATIC, 1)))}
_FIELD_INDEX: Final = {field: index for index, field in reversed(list(enumerate(_STATIC, 1)))}


def encode_stateless(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Encode without touching any dynamic table: static indices and literals without indexing (6.2.2).

    Such a block means the same on every connection at any time, so it can be built in advance and queued at
    will."""
    out = bytearray()
    for name, value in fields:
        index = _FIELD_INDEX.get((name, value))
        if index is not None:
            out.append(0x80 | index)
            continue
        index = _NAME_INDEX.get(name, 0)
        out += _prefix_integer(index, 0x0F)
        if not index:
            out += _prefix_integer(len(name), 0x7F)
            out += name
        out += _prefix_integer(len(value), 0x7F)
        out += value
    return bytes(out)


def _prefix_integer(value: int, mask: int) -> bytes:
    if value < mask:
        return bytes((value,))
    out = bytearray((mask,))
    value -= mask
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
