"""`oarlock put`, `get` and `del`, in etcdctl's manner: same flags, same output.

Keys and values are bytes: what the shell passes is sent as it is, and what comes back is printed as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from oarlock.cli.common import client_options, run_client

if TYPE_CHECKING:
    from oarlock.client import Client, DeleteResponse, GetResponse, KeyValue, PutResponse

_LATE_FIELDS = {"value": 1, "lease": 2}
"""Go prints a message's fields by number, and these come last."""
INT64 = click.IntRange(-(2**63), 2**63 - 1)
SORT_KEYS = ["CREATE", "KEY", "MODIFY", "VALUE", "VERSION"]


@click.command("put")
@click.argument("key")
@click.argument("value", required=False)
@click.option("--prev-kv", is_flag=True, help="Print the previous key and value too.")
@click.option("--ignore-value", is_flag=True, help="Keep the key's current value.")
@click.option("--ignore-lease", is_flag=True, help="Keep the key's current lease.")
@client_options("simple", "json")
def put_command(key: str, value: str | None, ignore_value: bool, **options: Any) -> int:
    """Set KEY to VALUE, or to what standard input gives."""
    if ignore_value:
        if value is not None:
            raise click.UsageError("--ignore-value keeps the value: give none")
        data = b""
    elif value is None:
        data = sys.stdin.buffer.read()
    else:
        data = os.fsencode(value)

    async def call(client: Client) -> None:
        response = await client.put(
            os.fsencode(key),
            data,
            prev_kv=options["prev_kv"],
            ignore_value=ignore_value,
            ignore_lease=options["ignore_lease"],
        )
        if options["write_out"] == "json":
            return _print_json(response)
        _write(b"OK\n")
        if response.prev_kv is not None:
            _print_pair(response.prev_kv)

    return _run(call, options)


@click.command("get")
@click.argument("key")
@click.argument("range_end", required=False)
@click.option("--prefix", is_flag=True, help="All keys that begin with KEY.")
@click.option("--from-key", is_flag=True, help="All keys from KEY on.")
@click.option("--limit", default=0, type=INT64, help="At most so many keys.")
@click.option("--rev", default=0, type=INT64, help="As of this revision.")
@click.option("--order", type=click.Choice(["ASCEND", "DESCEND"]), help="Of the sorting.")
@click.option("--sort-by", type=click.Choice(SORT_KEYS), help="What to sort by.")
@click.option(
    "--consistency",
    type=click.Choice(["l", "s"]),
    default="l",
    help="l is linearizable; s is serializable: from the member's own state, however old.",
)
@click.option("--keys-only", is_flag=True, help="No values.")
@click.option("--count-only", is_flag=True, help="Only how many keys there are.")
@click.option("--print-value-only", is_flag=True, help="No keys.")
@client_options("simple", "json")
def get_command(key: str, range_end: str | None, **options: Any) -> int:
    """Read KEY, or the keys from KEY up to but without RANGE_END."""
    _check_range(range_end, options)
    if options["keys_only"] and options["count_only"]:
        raise click.UsageError("--keys-only and --count-only exclude each other")

    async def call(client: Client) -> None:
        sort_by = (options["sort_by"] or "KEY").lower()
        response = await client.get(
            os.fsencode(key),
            range_end=os.fsencode(range_end or ""),
            prefix=options["prefix"],
            from_key=options["from_key"],
            limit=options["limit"],
            revision=options["rev"],
            serializable=options["consistency"] == "s",
            keys_only=options["keys_only"],
            count_only=options["count_only"],
            sort_by="mod" if sort_by == "modify" else sort_by,  # type: ignore[arg-type]
            descending=options["order"] == "DESCEND",
        )
        if options["write_out"] == "json":
            return _print_json(response)
        if options["count_only"]:
            return _write(b"%d\n" % response.count)
        for found in response.kvs:
            _print_pair(found, value_only=options["print_value_only"])

    return _run(call, options)


@click.command("del")
@click.argument("key")
@click.argument("range_end", required=False)
@click.option("--prefix", is_flag=True, help="All keys that begin with KEY.")
@click.option("--from-key", is_flag=True, help="All keys from KEY on.")
@click.option("--prev-kv", is_flag=True, help="Print what was deleted too.")
@client_options("simple", "json")
def del_command(key: str, range_end: str | None, **options: Any) -> int:
    """Delete KEY, or the keys from KEY up to but without RANGE_END."""
    _check_range(range_end, options)

    async def call(client: Client) -> None:
        response = await client.delete(
            os.fsencode(key),
            range_end=os.fsencode(range_end or ""),
            prefix=options["prefix"],
            from_key=options["from_key"],
            prev_kv=options["prev_kv"],
        )
        if options["write_out"] == "json":
            return _print_json(response)
        _write(b"%d\n" % response.deleted)
        for deleted in response.prev_kvs:
            _print_pair(deleted)

    return _run(call, options)


def _check_range(range_end: str | None, options: dict[str, Any]) -> None:
    given = [range_end is not None, options["prefix"], options["from_key"]]
    if sum(given) > 1:
        raise click.UsageError("a range end, --prefix and --from-key exclude each other")


def _run(call: Callable[[Client], Awaitable[None]], options: dict[str, Any]) -> int:
    run_client(call, options)
    sys.stdout.buffer.flush()
    return 0


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)


def _print_pair(pair: KeyValue, value_only: bool = False) -> None:
    _write(pair.value + b"\n" if value_only else pair.key + b"\n" + pair.value + b"\n")


def _print_json(response: PutResponse | GetResponse | DeleteResponse) -> None:
    """As Go prints it: keys and values in base64, and no field that is zero."""
    import base64
    import json

    import msgspec

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        if isinstance(value, msgspec.Struct):
            names = sorted(value.__struct_fields__, key=lambda name: _LATE_FIELDS.get(name, 0))
            pairs = ((name, getattr(value, name)) for name in names)
            return {name: plain(field) for name, field in pairs if field}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value

    _write(json.dumps(plain(response), separators=(",", ":")).encode() + b"\n")
