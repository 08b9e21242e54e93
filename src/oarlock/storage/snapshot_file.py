"""The bytes of one snapshot file: blocks with checksums, then a footer.

::

    | crc | data | crc | data | ... | crc | data | footer | length | crc | magic "OARLOCKS" |
      u32   64 KiB                          rest            u32      u32   8 bytes

Little-endian. The footer is MessagePack: format version, block size, and the `StoredSnapshot`, which has size
and checksum of all the data. It comes last, so the data can be streamed without knowing how much it will be.
A block's CRC-32C covers its number and its data; the footer's covers the footer, its length and the magic. So
each byte is under a checksum, and:

- any range can be read and checked by itself: no rotten byte is sent to another member;
- of a file that is not finished, the good beginning can be told: the next try goes on behind it. What a power
  cut leaves there, zeros or old blocks of the disk, has no valid checksum.
"""

from __future__ import annotations

import errno
import struct
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import google_crc32c
import msgspec

from oarlock.errors import CorruptSnapshot, DataDirError, DiskFailure, DiskFull, invariant
from oarlock.raft.types import Snapshot, StoredSnapshot
from oarlock.storage.files import FULL, File

FORMAT_VERSION = 1
BLOCK_BYTES = 64 << 10
SYNC_BYTES = 8 << 20
"""Synced that often while writing: a giant sync at the end would have the log's syncs wait behind it."""
PIECE_BYTES = 1 << 20
"""What is read at once, about."""
_CRC_BYTES = 4
_MAGIC = b"OARLOCKS"
_TRAILER = struct.Struct("<II8s")
_FOOTER_BYTES_MAX = 16 << 20
"""Far above any configuration; bounds what a damaged length could make us read."""

_crc32c = google_crc32c.value
_extend = google_crc32c.extend
_pack_crc = struct.Struct("<I").pack
_unpack_crc = struct.Struct("<I").unpack_from
_pack_number = struct.Struct("<Q").pack


class Footer(msgspec.Struct, frozen=True, array_like=True):
    """Fields are only added at the end, with a default."""

    format_version: int
    block_bytes: int
    stored: StoredSnapshot


def block_crc(number: int, data: bytes) -> int:
    checksum: int = _extend(_crc32c(_pack_number(number)), data)
    return checksum


def data_bytes(size: int, block_bytes: int) -> int:
    """What ``size`` bytes take in the file, with their checksums: where the footer begins."""
    return size + -(-size // block_bytes) * _CRC_BYTES


def encode_footer(stored: StoredSnapshot, block_bytes: int) -> bytes:
    payload = msgspec.msgpack.encode(Footer(FORMAT_VERSION, block_bytes, stored))
    return payload + _TRAILER.pack(len(payload), _footer_crc(payload), _MAGIC)


def _footer_crc(payload: bytes) -> int:
    checksum: int = _extend(_crc32c(payload), _pack_crc(len(payload)) + _MAGIC)
    return checksum


def read_footer(file: File, path: Path) -> Footer:
    """Raises:
    CorruptSnapshot: it is damaged, or the file is not of the size that it says.
    DataDirError: a newer version of the format.
    OSError: from the file system.
    """
    size = file.size()
    trailer = file.read(size - _TRAILER.size, _TRAILER.size) if size >= _TRAILER.size else b""
    if len(trailer) < _TRAILER.size:
        raise CorruptSnapshot(path, "the file is cut off")
    length, crc, magic = _TRAILER.unpack(trailer)
    if magic != _MAGIC or length > min(size - _TRAILER.size, _FOOTER_BYTES_MAX):
        raise CorruptSnapshot(path, "the end of the file is not a snapshot's")
    payload = file.read(size - _TRAILER.size - length, length)
    if _footer_crc(payload) != crc:
        raise CorruptSnapshot(path, "the footer has a wrong checksum")
    try:
        version = msgspec.msgpack.decode(payload, type=list)[0]
        if version != FORMAT_VERSION:
            raise DataDirError(
                f"{path}: written in snapshot format {version}, this program knows format {FORMAT_VERSION}: "
                "use the newer version of Oarlock"
            )
        footer = msgspec.msgpack.decode(payload, type=Footer)
    except (msgspec.MsgspecError, IndexError) as error:
        raise CorruptSnapshot(path, f"an undecodable footer: {error}") from None
    if footer.block_bytes < 1 or footer.stored.size < 0:
        raise CorruptSnapshot(path, "the footer makes no sense")
    if (begin := data_bytes(footer.stored.size, footer.block_bytes)) != size - _TRAILER.size - length:
        raise CorruptSnapshot(path, f"the data ends at {begin}, and the footer begins elsewhere")
    return footer


class BlockWriter:
    """Writes a snapshot's data from a block's beginning on, and at last its footer. Raises OSError."""

    def __init__(self, file: File, block_bytes: int, *, blocks: int = 0, checksum: int = 0) -> None:
        self._file = file
        self._block_bytes = block_bytes
        self._blocks = blocks
        """Written so far."""
        self._rest = b""
        """Less than a block."""
        self._unsynced = 0
        self.checksum = checksum
        """Of all data so far."""
        self.size = blocks * block_bytes
        """Bytes of data so far."""

    def add(self, data: bytes) -> None:
        self.checksum = _extend(self.checksum, data)
        self.size += len(data)
        data = self._rest + data if self._rest else data
        whole = len(data) - len(data) % self._block_bytes
        self._rest = data[whole:]
        step = max(PIECE_BYTES // self._block_bytes, 1) * self._block_bytes
        for begin in range(0, whole, step):
            self._write(data[begin : min(begin + step, whole)])

    def finish(self, snapshot: Snapshot) -> StoredSnapshot:
        """Write what is left, and the footer; durable when it returns, but for the file's name."""
        if self._rest:
            self._write(self._rest)
        stored = StoredSnapshot(snapshot, self.size, self.checksum)
        end = data_bytes(self.size, self._block_bytes)
        self._file.pwrite(encode_footer(stored, self._block_bytes), end)
        self._file.fdatasync()
        return stored

    def _write(self, data: bytes) -> None:
        """Blocks, all of them whole, or the last one."""
        offset = self._blocks * (self._block_bytes + _CRC_BYTES)
        parts = []
        for begin in range(0, len(data), self._block_bytes):
            block = data[begin : begin + self._block_bytes]
            parts += [_pack_crc(block_crc(self._blocks, block)), block]
            self._blocks += 1
        self._file.pwrite(b"".join(parts), offset)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_BYTES:
            self._file.fdatasync()
            self._unsynced = 0


class BlockReader:
    """Checked bytes of a snapshot file (implements `oarlock.replica.ports.SnapshotReader`)."""

    def __init__(self, file: File, path: Path, size: int, block_bytes: int) -> None:
        self._file = file
        self._path = path
        self._block_bytes = block_bytes
        self._lock = threading.Lock()
        """`close` must not pull the file away from under a `read` in a worker thread."""
        self._closed = False
        self.size = size

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the data, fewer at its end. Blocks for the disk.

        Raises:
            CorruptSnapshot: they are not those that were written.
            DiskFailure: the disk failed.
        """
        end = min(offset + size, self.size)
        if not 0 <= offset < end:
            return b""
        step = self._block_bytes + _CRC_BYTES
        first = offset // self._block_bytes
        last = (end - 1) // self._block_bytes
        wanted = min((last + 1) * step, data_bytes(self.size, self._block_bytes)) - first * step
        with self._lock:
            invariant(not self._closed, "a snapshot is read between open() and close()")
            try:
                raw = self._file.read(first * step, wanted)
            except OSError as error:
                raise snapshot_failure(error, self._path) from error
        blocks = check_blocks(raw, first, step)
        data = b"".join(blocks)
        if len(data) != wanted - len(blocks) * _CRC_BYTES:
            raise CorruptSnapshot(self._path, f"block {first + len(blocks)} has a wrong checksum")
        begin = offset - first * self._block_bytes
        return data[begin : begin + end - offset]

    def pieces(self) -> Iterator[bytes]:
        """All of it, in order. Raises as `read`."""
        step = max(PIECE_BYTES // self._block_bytes, 1) * self._block_bytes
        for offset in range(0, self.size, step):
            yield self.read(offset, step)

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._file.close()


def checksum_of(pieces: Iterable[bytes]) -> int:
    """CRC-32C of all of them in order."""
    checksum = 0
    for piece in pieces:
        checksum = _extend(checksum, piece)
    return checksum


def check_blocks(raw: bytes, first: int, step: int) -> list[bytes]:
    """The data of the blocks in ``raw``, which begins with block ``first``, up to the first bad one."""
    blocks = []
    for number, begin in enumerate(range(0, len(raw), step), start=first):
        data = raw[begin + _CRC_BYTES : begin + step]
        if not data or block_crc(number, data) != _unpack_crc(raw, begin)[0]:
            break
        blocks.append(data)
    return blocks


def good_beginning(file: File, size: int, block_bytes: int) -> tuple[int, int]:
    """Of an unfinished file for ``size`` bytes: how many whole blocks are good, and their checksum.

    Raises OSError.
    """
    step = block_bytes + _CRC_BYTES
    whole = size // block_bytes
    blocks, checksum = 0, 0
    while blocks < whole:
        wanted = min(max(PIECE_BYTES // block_bytes, 1), whole - blocks)
        raw = file.read(blocks * step, wanted * step)
        found = check_blocks(raw, blocks, step)
        for data in found:
            checksum = _extend(checksum, data)
        blocks += len(found)
        if len(found) < wanted:
            break
    return blocks, checksum


def snapshot_failure(error: OSError, path: Path) -> DiskFailure:
    """Our error for one of the operating system's. Only the snapshot is lost by it."""
    where = error.filename or path
    if error.errno in FULL or error.errno == errno.EFBIG:
        return DiskFull(f"{where}: no space left on the disk for a snapshot: free some")
    return DiskFailure(f"{where}: the disk failed: {error.strerror or error}")
