"""A server's settings: from flags, environment and file, validated once, then immutable.

Precedence: a flag, then its environment variable (``OARLOCK_`` and the flag in capitals), then the file
given by ``--config-file``, then the default. Everything that can be wrong in itself is found here, before
anything is opened: the error is one line that names the setting.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from oarlock.errors import UsageError
from oarlock.raft.membership import PRIORITY_MAX
from oarlock.server import options
from oarlock.server.flags import parse_bool, parse_flags
from oarlock.server.options import Kind, Option

LOG_LEVELS = {"debug": "DEBUG", "info": "INFO", "warn": "WARNING", "error": "ERROR"}
ELECTION_TIMEOUT_MAX = 50_000
"""Milliseconds; etcd's bound."""
QUOTA_DEFAULT = 2 * 1024**3
SNAPSHOT_COUNT_DEFAULT = 100_000
REQUEST_BYTES_RANGE = (1, 32 * 1024 * 1024)
"""A peer's frame holds 64 MiB: an entry of the largest size, and what goes with it, has room in one."""


class Address(msgspec.Struct, frozen=True):
    """One URL, taken apart."""

    url: str
    host: str
    port: int


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What `Server` runs with. Made by `load_settings`, or by hand in an application."""

    name: str = "default"
    data_dir: Path = Path("default.oarlock")
    listen_client: tuple[Address, ...] = (Address("http://localhost:2379", "localhost", 2379),)
    listen_peer: tuple[Address, ...] = (Address("http://localhost:2380", "localhost", 2380),)
    advertise_client_urls: tuple[str, ...] = ("http://localhost:2379",)
    initial_cluster: tuple[tuple[str, tuple[str, ...]], ...] = (("default", ("http://localhost:2380",)),)
    """Every member's name and peer URLs, this one's included."""
    join: tuple[str, ...] = ()
    """Peer URLs of members to ask at the first start, to join their cluster. Empty: found one."""
    advertise_peer_urls: tuple[str, ...] = ("http://localhost:2380",)
    """Where the other members find this one."""
    initial_cluster_token: str = "etcd-cluster"
    heartbeat_interval: float = 0.1
    """Seconds."""
    election_timeout: float = 1.0
    """Seconds."""
    snapshot_count: int = SNAPSHOT_COUNT_DEFAULT
    """Log entries after which a snapshot is due."""
    priority: int | None = None
    """Of this member, as a leader. None: as it is in the log."""
    strict_reconfiguration: bool = True
    learners_max: int = 5
    lease_reads: bool = False
    quota_bytes: int = QUOTA_DEFAULT
    request_bytes_max: int = 1572864
    log_level: str = "INFO"
    """As `logging` names it."""
    warnings: tuple[str, ...] = ()
    """Settings that were accepted and do nothing: to be logged once at start-up."""


def load_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read and validate everything.

    Args:
        arguments: the flags, without program and command name.
        environment: usually `os.environ`.

    Raises:
        UsageError: one line that names what is wrong and what to do.
    """
    flags, rest = parse_flags(arguments, options.KNOWN, options.BOOLEANS)
    if rest:
        raise UsageError(f"{rest[0]!r} is not a flag: see `oarlock serve --help`")
    variables = {
        flag: environment[name]
        for flag in sorted(options.KNOWN)
        if (name := options.environment_name(flag)) in environment
    }
    file_name = flags.get("config-file") or variables.get("config-file")
    values = {**(_read_file(file_name) if file_name else {}), **variables, **flags}
    return _settings(values)


def _read_file(name: str) -> dict[str, str]:
    """The file's settings as texts, in the form that a flag would have."""
    try:
        table = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config-file {name}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config-file {name}: not TOML: {error}") from None
    values = {}
    for key, value in table.items():
        if key not in options.KNOWN or key == "config-file":
            raise UsageError(f"--config-file {name}: unknown setting {key!r}")
        if isinstance(value, bool):
            values[key] = "true" if value else "false"
        elif isinstance(value, str | int):
            values[key] = str(value)
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            values[key] = ",".join(value)
        else:
            raise UsageError(f"--config-file {name}: {key}: expected a text, a number or a list of texts")
    return values


def _settings(values: Mapping[str, str]) -> Settings:
    warnings = _check_unobeyed(values)
    given = {option.flag: values.get(option.flag, "") for option in options.OBEYED}
    read = {option.flag: _read(option, given[option.flag] or option.default) for option in options.OBEYED}
    name: str = read["name"]
    if not name or "=" in name or "," in name:
        raise UsageError(f"--name: {name!r} is not a name: it may not be empty or contain = or ,")
    listen_client = _addresses("listen-client-urls", read["listen-client-urls"])
    listen_peer = _addresses("listen-peer-urls", read["listen-peer-urls"])
    advertise_client = read["advertise-client-urls"] or tuple(address.url for address in listen_client)
    _addresses("advertise-client-urls", advertise_client)
    if read["initial-cluster-state"] not in {"new", "existing"}:
        raise UsageError(f"--initial-cluster-state: {read['initial-cluster-state']!r}: write new or existing")
    cluster, join = _cluster(name, read, tuple(address.url for address in listen_peer))
    if read["log-level"] not in LOG_LEVELS:
        raise UsageError(f"--log-level: {read['log-level']!r}: write one of {', '.join(LOG_LEVELS)}")
    _check_timing(read["heartbeat-interval"], read["election-timeout"])
    low, high = REQUEST_BYTES_RANGE
    if not low <= read["max-request-bytes"] <= high:
        raise UsageError(f"--max-request-bytes: must be in {low} … {high}, not {read['max-request-bytes']}")
    return Settings(
        name=name,
        data_dir=Path(read["data-dir"] or f"{name}.oarlock"),
        listen_client=listen_client,
        listen_peer=listen_peer,
        advertise_client_urls=advertise_client,
        initial_cluster=cluster,
        join=join,
        advertise_peer_urls=dict(cluster)[name],
        initial_cluster_token=read["initial-cluster-token"],
        heartbeat_interval=read["heartbeat-interval"] / 1000,
        election_timeout=read["election-timeout"] / 1000,
        snapshot_count=read["snapshot-count"] or SNAPSHOT_COUNT_DEFAULT,
        priority=read["member-priority"],
        strict_reconfiguration=read["strict-reconfig-check"],
        learners_max=read["max-learners"],
        lease_reads=read["lease-reads"],
        quota_bytes=read["quota-backend-bytes"] or QUOTA_DEFAULT,
        request_bytes_max=read["max-request-bytes"],
        log_level=LOG_LEVELS[read["log-level"]],
        warnings=warnings,
    )


def _check_unobeyed(values: Mapping[str, str]) -> tuple[str, ...]:
    """Refuse what must not be ignored; return a warning for each setting that does nothing."""
    warnings = []
    for flag, text in values.items():
        value = ("true" if parse_bool(flag, text) else "false") if flag in options.BOOLEANS else text
        if flag in options.NOT_TO_BE_IGNORED:
            harmless, reason = options.NOT_TO_BE_IGNORED[flag]
            if value not in harmless:
                raise UsageError(f"--{flag}: {reason}")
        elif flag in options.WITHOUT_MEANING:
            warnings.append(f"--{flag} is one of etcd's flags and has no effect here")
    return tuple(warnings)


def _read(option: Option, text: str) -> Any:
    if option.kind is Kind.BOOLEAN:
        return parse_bool(option.flag, text)
    if option.kind is Kind.PRIORITY:
        return _priority(option.flag, text) if text else None
    if option.kind in {Kind.MILLISECONDS, Kind.BYTES, Kind.COUNT}:
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise UsageError(f"--{option.flag}: {text!r} is not a whole number")
        return int(text)
    if option.kind is Kind.URLS:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if option.kind is Kind.CLUSTER:
        return _pairs(option.flag, text)
    return text


def _priority(flag: str, text: str) -> int:
    if re.fullmatch("[0-9]{1,9}", text) and int(text) <= PRIORITY_MAX:
        return int(text)
    raise UsageError(f"--{flag}: {text!r} is not a whole number in 0 … {PRIORITY_MAX}")


def _pairs(flag: str, text: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, url = part.partition("=")
        if not (equals and url):
            raise UsageError(f"--{flag}: {part!r} is not NAME=URL")
        pairs.append((name, url))
    return tuple(pairs)


def parse_url(flag: str, url: str) -> Address:
    """Take ``http://host:port`` apart.

    Raises:
        UsageError: it is something else; names `flag`.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # as it will be looked up
    except ValueError as error:
        raise UsageError(f"--{flag}: cannot parse URL {url!r}: {error}") from None
    if parts.scheme == "https":
        raise UsageError(f"--{flag}: {url!r}: TLS is not supported yet, write http://…")
    if parts.scheme != "http":
        raise UsageError(f"--{flag}: cannot parse URL {url!r}: it must be http://HOST:PORT")
    if not host or port is None or parts.username is not None:
        raise UsageError(f"--{flag}: cannot parse URL {url!r}: it must be http://HOST:PORT")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise UsageError(f"--{flag}: URL {url!r} must not have anything after the port")
    return Address(url.rstrip("/"), host, port)


def _addresses(flag: str, urls: Sequence[str]) -> tuple[Address, ...]:
    if not urls:
        raise UsageError(f"--{flag}: at least one URL is needed")
    return tuple(parse_url(flag, url) for url in urls)


def _cluster(
    name: str, read: Mapping[str, Any], listen_peer_urls: tuple[str, ...]
) -> tuple[tuple[tuple[str, tuple[str, ...]], ...], tuple[str, ...]]:
    """Who the members are, and whom to ask if this one joins them.

    This one is among them, under the addresses that it gives.
    """
    given: tuple[str, ...] = read["initial-advertise-peer-urls"]
    own = tuple(parse_url("initial-advertise-peer-urls", url).url for url in given)
    asked = tuple(parse_url("join", url).url for url in read["join"])
    joins = bool(asked) or read["initial-cluster-state"] == "existing"
    pairs: tuple[tuple[str, str], ...] = read["initial-cluster"]
    if not pairs:
        if joins and not asked:
            raise UsageError(
                "--initial-cluster-state existing: whom to ask? Give --join with a member's peer URL, "
                "or --initial-cluster with all members"
            )
        return ((name, own or listen_peer_urls),), asked
    members: dict[str, list[str]] = {}
    for member, url in pairs:
        if not member and not joins:
            raise UsageError(f"--initial-cluster: {f'={url}'!r} is not NAME=URL")
        members.setdefault(member, []).append(parse_url("initial-cluster", url).url)
    if name not in members:
        raise UsageError(f"--initial-cluster has no member {name!r}: it lists {', '.join(sorted(members))}")
    every = [url for urls in members.values() for url in urls]
    if twice := sorted({url for url in every if every.count(url) > 1}):
        raise UsageError(f"--initial-cluster: {twice[0]} is listed twice")
    if own and sorted(own) != sorted(members[name]):
        raise UsageError(
            f"--initial-advertise-peer-urls {','.join(own)} and --initial-cluster's "
            f"{name}={','.join(members[name])} differ: give the same URLs in both"
        )
    others = tuple(url for url in every if url not in members[name])
    if joins and not (asked or others):
        raise UsageError("--initial-cluster-state existing, but --initial-cluster names no other member")
    cluster = tuple((member, tuple(members[member])) for member in sorted(members))
    return cluster, (asked or others) if joins else ()


def _check_timing(heartbeat: int, election: int) -> None:
    """etcd's rules: an election must need several lost heartbeats."""
    if heartbeat < 1:
        raise UsageError(f"--heartbeat-interval: must be at least 1 ms, not {heartbeat}")
    if election < 5 * heartbeat:
        raise UsageError(
            f"--election-timeout ({election} ms) must be at least five times "
            f"--heartbeat-interval ({heartbeat} ms)"
        )
    if election > ELECTION_TIMEOUT_MAX:
        raise UsageError(f"--election-timeout: must be at most {ELECTION_TIMEOUT_MAX} ms, not {election}")
