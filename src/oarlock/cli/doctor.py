"""`oarlock doctor`: ask every member for its account of things, and say what is wrong.

What the accounts mean is worked out by `oarlock.replica.doctor`; here they are fetched, from `/status` on the
clients' ports. That needs no leader and no majority: one member that answers names all the others.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from oarlock.cli.common import duration_option, endpoints_option, run_async
from oarlock.cli.output import print_json

if TYPE_CHECKING:
    from oarlock.replica.doctor import Finding
    from oarlock.replica.status import Status

STATUS_BYTES_MAX = 16 << 20


@click.command("doctor")
@endpoints_option
@duration_option("--timeout", "2s", "For each member.")
@click.option(
    "-w", "--write-out", type=click.Choice(["simple", "json"]), default="simple", help="Output format."
)
def doctor_command(endpoints: tuple[str, ...], timeout: float, write_out: str) -> int:
    """Say why there is no leader or no progress, and what to do about it.

    Asks the --endpoints, and all members that these know of: who cannot be reached, who refused whose vote
    and why, which follower holds back commits, which disk is slow, which change is stuck. It works without a
    leader, and changes nothing.

    The exit code is 1 if something is wrong, 0 if nothing is.
    """
    from oarlock.replica.doctor import Severity, diagnose

    statuses = run_async(gather(endpoints, timeout))
    findings = diagnose(statuses)
    if write_out == "json":
        print_json([_plain(finding) for finding in findings])
    else:
        _print(statuses, findings)
    return 1 if any(finding.severity >= Severity.WARNING for finding in findings) else 0


def _print(statuses: dict[str, Status | str], findings: list[Finding]) -> None:
    for endpoint, status in statuses.items():
        click.echo(f"{endpoint}: {status if isinstance(status, str) else _in_short(status)}")
    click.echo()
    for finding in findings:
        click.echo(f"{finding.severity.name:<8}  {finding.text}")
        if finding.advice:
            click.echo(f"{'':8}  → {finding.advice}")
    if not findings:
        click.echo("Nothing is wrong.")


def _in_short(status: Status) -> str:
    role = "learner" if status.learner else status.role
    return (
        f"{status.name or 'no name yet'} ({status.id}), {role}, term {status.term}, "
        f"log to {status.last_index}, committed {status.commit_index}, applied {status.applied_index}"
    )


def _plain(finding: Finding) -> dict[str, Any]:
    return {
        "severity": finding.severity.name.lower(),
        "text": finding.text,
        "advice": finding.advice,
        "member": finding.member,
    }


async def gather(endpoints: tuple[str, ...], timeout: float) -> dict[str, Status | str]:
    """What each endpoint says, and each member that is known from that: its status, or why there is none.

    Raises:
        UsageError: an endpoint that cannot be parsed.
    """
    from oarlock.client.endpoints import Address

    def fetch(endpoint: str) -> asyncio.Future[Status | str]:
        address = Address(endpoint)
        return asyncio.ensure_future(asyncio.to_thread(fetch_status, address, timeout))

    async def fetch_all(wanted: list[str]) -> dict[str, Status | str]:
        return dict(zip(wanted, await asyncio.gather(*map(fetch, wanted)), strict=True))

    statuses = await fetch_all(list(dict.fromkeys(endpoints)))
    asked = {_bare(endpoint) for endpoint in statuses}
    for urls in _others(statuses):
        for url in urls:
            if _bare(url) in asked:
                continue
            statuses.update(await fetch_all([url]))
            if not isinstance(statuses[url], str):
                break
    return statuses


def _bare(endpoint: str) -> str:
    return endpoint.partition("://")[2].rstrip("/") or endpoint


def _others(statuses: dict[str, Status | str]) -> list[tuple[str, ...]]:
    """The client URLs of each member that is known and has not answered."""
    answers = [status for status in statuses.values() if not isinstance(status, str)]
    if not answers:
        return []
    newest = max(answers, key=lambda status: status.configuration.index)
    answered = {status.id for status in answers}
    return [member.client_urls for member in newest.configuration.members if member.id not in answered]


def fetch_status(address: Any, timeout: float) -> Status | str:
    """One GET of `/status`; blocks. A text says why there is no status."""
    import urllib.error
    import urllib.request

    import msgspec

    from oarlock.replica.status import Status

    host = f"[{address.host}]" if ":" in address.host else address.host
    url = f"{'https' if address.secure else 'http'}://{host}:{address.port}/status"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as answer:
            return msgspec.json.decode(answer.read(STATUS_BYTES_MAX), type=Status)
    except urllib.error.HTTPError as error:
        return f"it answers {error.code} to /status: not an Oarlock server, or an old one"
    except urllib.error.URLError as error:
        return _reason(error.reason)
    except msgspec.MsgspecError as error:
        return f"its /status makes no sense to this version of Oarlock: {error}"
    except (OSError, ValueError) as error:
        return _reason(error)


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
