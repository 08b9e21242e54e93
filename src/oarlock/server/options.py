"""The table of flags: which we obey, which we accept with a warning, and which we refuse to pretend.

Names and defaults are etcd 3.5's, so that a unit file or a Helm chart written for etcd starts Oarlock.
An etcd flag falls into one of three classes:

* **obeyed**: it means here what it means there;
* **without meaning**: it tunes a part that we do not have; it is accepted with a warning;
* **not to be ignored**: who sets it counts on its effect (encryption, access control, disaster
  recovery), so any value but the default is refused until we can keep the promise.
"""

from __future__ import annotations

import enum

import msgspec


class Kind(enum.Enum):
    """How a flag's text is read."""

    TEXT = "text"
    MILLISECONDS = "ms"
    BYTES = "bytes"
    URLS = "urls"
    """Comma-separated."""
    CLUSTER = "cluster"
    """``name=url,name=url``; a name may come twice with different URLs."""
    BOOLEAN = "boolean"
    COUNT = "count"
    """A whole number from 0."""
    PRIORITY = "priority"
    """A whole number; "" is none."""


class Option(msgspec.Struct, frozen=True):
    """One flag that we obey."""

    flag: str
    kind: Kind
    default: str
    help: str
    metavar: str = ""


def environment_name(flag: str) -> str:
    """The environment variable that sets a flag."""
    return "OARLOCK_" + flag.upper().replace("-", "_")


OBEYED: tuple[Option, ...] = (
    Option("name", Kind.TEXT, "default", "This member's name."),
    Option("data-dir", Kind.TEXT, "", "Where the member keeps its data. Default: <name>.oarlock.", "PATH"),
    Option("listen-client-urls", Kind.URLS, "http://localhost:2379", "Addresses to serve clients on."),
    Option("advertise-client-urls", Kind.URLS, "", "Client addresses to tell others. Default: those served."),
    Option("listen-peer-urls", Kind.URLS, "http://localhost:2380", "Addresses to hear other members on."),
    Option(
        "initial-advertise-peer-urls",
        Kind.URLS,
        "",
        "Peer addresses to tell others. Default: this member's in --initial-cluster.",
    ),
    Option("initial-cluster", Kind.CLUSTER, "", "All members: NAME=PEER-URL,… Default: this member alone."),
    Option(
        "initial-cluster-state",
        Kind.TEXT,
        "new",
        "new founds the cluster; existing joins it, after `oarlock member add`.",
        "STATE",
    ),
    Option(
        "join",
        Kind.URLS,
        "",
        "Join the cluster of these members, after `oarlock member add`. The peer address of one is enough, "
        "and --initial-cluster is not needed.",
        "URL,…",
    ),
    Option("initial-cluster-token", Kind.TEXT, "etcd-cluster", "Tells clusters of equal addresses apart."),
    Option("heartbeat-interval", Kind.MILLISECONDS, "100", "Milliseconds between a leader's heartbeats."),
    Option(
        "election-timeout", Kind.MILLISECONDS, "1000", "Milliseconds without a leader before an election."
    ),
    Option(
        "snapshot-count",
        Kind.COUNT,
        "100000",
        "Log entries after which a snapshot is due, as it is after 64 MiB of log; but not before the log is "
        "four times as large as the last snapshot.",
    ),
    Option(
        "member-priority",
        Kind.PRIORITY,
        "",
        "A leader hands over to a caught-up voter of a higher priority; 0 to a million. Without the flag "
        "it stays as it is: 0, or what `oarlock member update --priority` said.",
        "N",
    ),
    Option(
        "strict-reconfig-check",
        Kind.BOOLEAN,
        "true",
        "Refuse a change of the members that would leave too few of them in touch to go on.",
    ),
    Option("max-learners", Kind.COUNT, "5", "Learners at one time; every new member is one at first."),
    Option(
        "lease-reads",
        Kind.BOOLEAN,
        "false",
        "Let a leader answer linearizable reads without asking a majority each time. Then they rest on the "
        "members' clocks: right as long as no clock runs more than 10 % faster or slower than another. All "
        "members need the same setting and the same --election-timeout.",
    ),
    Option("quota-backend-bytes", Kind.BYTES, "0", "Largest size of the store; 0 is 2 GiB."),
    Option("max-request-bytes", Kind.BYTES, "1572864", "Largest client request."),
    Option("log-level", Kind.TEXT, "info", "debug, info, warn or error.", "LEVEL"),
)

CONFIG_FILE = Option("config-file", Kind.TEXT, "", "TOML file with these flags as keys.", "PATH")

_WITHOUT_MEANING = """
wal-dir initial-election-tick-advance max-snapshots max-wals backend-bbolt-freelist-type
backend-batch-interval backend-batch-limit max-txn-ops grpc-keepalive-min-time grpc-keepalive-interval
grpc-keepalive-timeout socket-reuse-port socket-reuse-address discovery-fallback
pre-vote auto-compaction-retention auto-compaction-mode enable-v2 v2-deprecation self-signed-cert-validity
cipher-suites cors bcrypt-cost auth-token auth-token-ttl enable-pprof metrics listen-metrics-urls logger
log-outputs enable-log-rotation log-rotation-config-json experimental-enable-distributed-tracing
experimental-distributed-tracing-address experimental-distributed-tracing-service-name
experimental-distributed-tracing-instance-id proxy-failure-wait proxy-refresh-interval proxy-dial-timeout
proxy-write-timeout proxy-read-timeout experimental-initial-corrupt-check
experimental-corrupt-check-time experimental-enable-v2v3 experimental-enable-lease-checkpoint
experimental-compaction-batch-limit experimental-peer-skip-client-san-verification
experimental-watch-progress-notify-interval experimental-warning-apply-duration
experimental-txn-mode-write-with-shared-buffer experimental-bootstrap-defrag-threshold-megabytes
unsafe-no-fsync
"""
WITHOUT_MEANING: frozenset[str] = frozenset(_WITHOUT_MEANING.split())

NOT_TO_BE_IGNORED: dict[str, tuple[frozenset[str], str]] = {
    **{
        flag: (frozenset({""}), "TLS is not supported yet")
        for flag in (
            "cert-file",
            "key-file",
            "trusted-ca-file",
            "client-crl-file",
            "client-cert-allowed-hostname",
            "peer-cert-file",
            "peer-key-file",
            "peer-trusted-ca-file",
            "peer-crl-file",
            "peer-cert-allowed-cn",
            "peer-cert-allowed-hostname",
        )
    },
    **{
        flag: (frozenset({"false"}), "TLS is not supported yet")
        for flag in ("client-cert-auth", "auto-tls", "peer-client-cert-auth", "peer-auto-tls")
    },
    **{
        flag: (frozenset({""}), "discovery is not supported; list the members in --initial-cluster")
        for flag in ("discovery", "discovery-proxy", "discovery-srv", "discovery-srv-name")
    },
    "force-new-cluster": (frozenset({"false"}), "a cluster cannot be rebuilt from one member yet"),
    "host-whitelist": (frozenset({"", "*"}), "host checking is not supported yet"),
    "proxy": (frozenset({"off"}), "there is no proxy mode"),
}
"""Flag → the values that ask for nothing, and what to say to any other."""

_BOOLEANS = """
initial-election-tick-advance socket-reuse-port socket-reuse-address strict-reconfig-check pre-vote
enable-v2 client-cert-auth auto-tls peer-client-cert-auth peer-auto-tls enable-pprof enable-log-rotation
experimental-enable-distributed-tracing experimental-initial-corrupt-check
experimental-enable-lease-checkpoint experimental-peer-skip-client-san-verification
experimental-txn-mode-write-with-shared-buffer force-new-cluster unsafe-no-fsync lease-reads
"""
BOOLEANS: frozenset[str] = frozenset(_BOOLEANS.split())

KNOWN: frozenset[str] = frozenset(
    {option.flag for option in OBEYED} | {CONFIG_FILE.flag} | WITHOUT_MEANING | set(NOT_TO_BE_IGNORED)
)
