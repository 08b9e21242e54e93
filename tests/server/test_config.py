"""Settings: precedence, defaults, and one clear line for everything that is wrong in itself."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from oarlock.errors import UsageError
from oarlock.server import options
from oarlock.server.config import Settings, load_settings

THREE = "a=http://10.0.0.1:2380,b=http://10.0.0.2:2380,c=http://10.0.0.3:2380"


def load(*arguments: str, **environment: str) -> Settings:
    return load_settings(arguments, environment)


def test_without_flags_it_is_a_cluster_of_one_on_the_usual_ports() -> None:
    assert load() == Settings()


def test_the_data_directory_is_named_after_the_member() -> None:
    assert load("--name", "a").data_dir == Path("a.oarlock")


def test_a_member_of_three_is_read_from_etcds_flags() -> None:
    settings = load(
        *("--name", "b", "--initial-cluster", THREE, "--initial-advertise-peer-urls", "http://10.0.0.2:2380"),
        *("--listen-peer-urls=http://0.0.0.0:2380", "--listen-client-urls", "http://0.0.0.0:2379"),
        *("--advertise-client-urls", "http://10.0.0.2:2379", "--initial-cluster-token", "t"),
        *("--heartbeat-interval=50", "--election-timeout=500", "--log-level=debug"),
    )
    assert settings.initial_cluster == (
        ("a", ("http://10.0.0.1:2380",)),
        ("b", ("http://10.0.0.2:2380",)),
        ("c", ("http://10.0.0.3:2380",)),
    )
    assert (settings.listen_peer[0].host, settings.listen_peer[0].port) == ("0.0.0.0", 2380)
    assert settings.advertise_client_urls == ("http://10.0.0.2:2379",)
    assert (settings.heartbeat_interval, settings.election_timeout) == (0.05, 0.5)
    assert settings.log_level == "DEBUG"
    assert settings.initial_cluster_token == "t"


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "o.toml"
    file.write_text('name = "file"\ndata-dir = "file"\nelection-timeout = 700\nlog-level = "warn"\n')
    settings = load(
        *("--config-file", str(file), "--name", "flag"),
        OARLOCK_NAME="environment",
        OARLOCK_DATA_DIR="environment",
    )
    assert settings.name == "flag"
    assert settings.data_dir == Path("environment")
    assert settings.election_timeout == 0.7
    assert settings.heartbeat_interval == 0.1


def test_the_file_can_be_named_by_the_environment_and_hold_lists_and_booleans(tmp_path: Path) -> None:
    file = tmp_path / "o.toml"
    file.write_text('listen-client-urls = ["http://a:1", "http://b:2"]\npre-vote = true\n')
    settings = load(OARLOCK_CONFIG_FILE=str(file))
    assert [address.port for address in settings.listen_client] == [1, 2]
    assert settings.warnings == ("--pre-vote is one of etcd's flags and has no effect here",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bogus"], "unknown flag --bogus"),
        (["serve-what"], "'serve-what' is not a flag"),
        (["--listen-client-urls", "foo"], "--listen-client-urls: cannot parse URL 'foo'"),
        (["--listen-client-urls", "http://a"], "cannot parse URL 'http://a'"),
        (["--listen-client-urls", "http://a:99999"], "cannot parse URL 'http://a:99999'"),
        (["--listen-client-urls", "http://[::1:2"], "cannot parse URL"),
        (["--listen-client-urls", "http://a..b:1"], "cannot parse URL 'http://a..b:1'"),
        (["--listen-peer-urls", f"http://{'a' * 64}:1"], "--listen-peer-urls: cannot parse URL"),
        (["--listen-client-urls", "ftp://a:1"], "cannot parse URL 'ftp://a:1'"),
        (["--listen-client-urls", "http://a:1/path"], "anything after the port"),
        (["--listen-client-urls", "https://a:1"], "TLS is not supported yet"),
        (["--listen-client-urls", ","], "at least one URL"),
        (["--name", ""], None),
        (["--name", "a,b"], "'a,b' is not a name"),
        (["--name", "d", "--initial-cluster", THREE], "has no member 'd': it lists a, b, c"),
        (["--initial-cluster", "x"], "'x' is not NAME=URL"),
        (["--name", "a", "--initial-cluster", "a=foo"], "--initial-cluster: cannot parse URL 'foo'"),
        (["--name", "a", "--initial-cluster", "a=http://h:1,b=http://h:1"], "http://h:1 is listed twice"),
        (
            ["--name", "a", "--initial-cluster", THREE, "--initial-advertise-peer-urls", "http://h:1"],
            "differ: give the same URLs in both",
        ),
        (["--initial-cluster-state", "old"], "write new or existing"),
        (["--initial-cluster-state", "existing"], "whom to ask? Give --join"),
        (
            ["--name", "a", "--initial-cluster", "a=http://h:1", "--initial-cluster-state", "existing"],
            "--initial-cluster names no other member",
        ),
        (["--join", "foo"], "--join: cannot parse URL 'foo'"),
        (["--member-priority", "high"], "'high' is not a whole number in 0 … 1000000"),
        (["--member-priority", "-1"], "'-1' is not a whole number in 0 … 1000000"),
        (["--lease-reads=maybe"], "'maybe' is not a boolean"),
        (["--log-level", "loud"], "write one of debug, info, warn, error"),
        (["--heartbeat-interval", "0"], "at least 1 ms"),
        (["--heartbeat-interval", "fast"], "'fast' is not a whole number"),
        (["--heartbeat-interval", "300"], "at least five times"),
        (["--election-timeout", "60000"], "at most 50000 ms"),
        (["--max-request-bytes", "999999999999"], "--max-request-bytes: must be in"),
        (["--cert-file", "x.pem"], "--cert-file: TLS is not supported yet"),
        (["--client-cert-auth"], "--client-cert-auth: TLS is not supported yet"),
        (["--discovery", "http://x"], "list the members in --initial-cluster"),
        (["--force-new-cluster"], "--force-new-cluster"),
        (["--pre-vote=maybe"], "'maybe' is not a boolean"),
        (["--config-file", "/nonexistent/x.toml"], "--config-file /nonexistent/x.toml: No such file"),
    ],
)
def test_wrong_settings_get_one_line_that_names_them(arguments: list[str], message: str | None) -> None:
    if message is None:
        assert load(*arguments).name == "default", "an empty value is as good as none"
        return
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        load(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not TOML"),
        ('nmae = "x"', "unknown setting 'nmae'"),
        ("name = [1]", "name: expected a text"),
    ],
)
def test_a_wrong_file_gets_one_line_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "o.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        load("--config-file", str(file))
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_address_is_enough_to_join() -> None:
    settings = load(
        "--name", "d", "--join", "http://10.0.0.1:2380", "--listen-peer-urls", "http://10.0.0.4:2380"
    )
    assert settings.join == ("http://10.0.0.1:2380",)
    assert settings.advertise_peer_urls == ("http://10.0.0.4:2380",)


def test_an_existing_cluster_is_asked_at_the_addresses_of_the_others() -> None:
    settings = load("--name", "b", "--initial-cluster", THREE, "--initial-cluster-state", "existing")
    assert settings.join == ("http://10.0.0.1:2380", "http://10.0.0.3:2380")
    assert settings.advertise_peer_urls == ("http://10.0.0.2:2380",)


def test_members_without_a_name_are_taken_as_etcdctl_prints_them_for_a_server_that_joins() -> None:
    """`member add` prints =URL for a member that was added before and not started yet."""
    cluster = "b=http://10.0.0.2:2380,=http://10.0.0.1:2380"
    settings = load("--name", "b", "--initial-cluster", cluster, "--initial-cluster-state", "existing")
    assert settings.join == ("http://10.0.0.1:2380",)
    with pytest.raises(UsageError, match=re.escape("'=http://10.0.0.1:2380' is not NAME=URL")):
        load("--name", "b", "--initial-cluster", cluster)


def test_membership_and_snapshots_have_their_settings() -> None:
    settings = load(
        *("--snapshot-count", "500", "--member-priority", "3", "--max-learners=2"),
        *("--strict-reconfig-check=false", "--lease-reads"),
    )
    assert (settings.snapshot_count, settings.priority, settings.learners_max) == (500, 3, 2)
    assert (settings.strict_reconfiguration, settings.lease_reads) == (False, True)
    assert load("--snapshot-count", "0").snapshot_count == 100_000, "as in etcd"
    assert load("--member-priority=").priority is None


def test_harmless_values_of_flags_that_we_cannot_obey_are_accepted() -> None:
    assert load("--cert-file=", "--client-cert-auth=false", "--proxy", "off").warnings == ()


def test_every_flag_of_real_etcd_is_known(etcd_binary: str) -> None:
    """From its own help: a unit file written for etcd never fails on a flag's name."""
    shown = subprocess.run([etcd_binary, "--help"], capture_output=True, text=True, check=True)
    flags = set(re.findall(r"^\s+--([a-z0-9-]+)", shown.stdout + shown.stderr, re.MULTILINE))
    assert len(flags) > 80
    assert flags <= options.KNOWN


def test_every_boolean_flag_of_real_etcd_is_read_as_one(etcd_binary: str) -> None:
    shown = subprocess.run([etcd_binary, "--help"], capture_output=True, text=True, check=True)
    pairs = re.findall(r"^\s+--([a-z0-9-]+) '(true|false)'", shown.stdout + shown.stderr, re.MULTILINE)
    ours = {"lease-reads"}
    assert {flag for flag, _ in pairs} == options.BOOLEANS - ours
