"""`oarlock bench put|range`: load for any etcd v3 endpoint, throughput and latency percentiles."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from oarlock.cli.common import duration_option, endpoints_option, run_async

if TYPE_CHECKING:
    from oarlock.bench import Load, Report


@click.group("bench")
def bench_command() -> None:
    """Measure a running cluster, ours or etcd's: throughput and latency."""


def _load_options(function: Any) -> Any:
    for option in reversed(
        (
            endpoints_option,
            click.option("--clients", default=100, show_default=True, help="Requests in flight at any time."),
            click.option("--connections", default=10, show_default=True, help="Connections that carry them."),
            click.option("--total", default=0, help="Requests to answer before the end."),
            duration_option("--duration", "0s", "Time before the end, if no total is given 10s."),
            click.option("--key-size", default=8, show_default=True, help="Bytes."),
            click.option("--value-size", default=256, show_default=True, help="Bytes."),
            click.option("--keys", default=10_000, show_default=True, help="How many different keys."),
            click.option("--seed", default=1, show_default=True, help="Of the random choice of keys."),
            click.option(
                "-w", "--write-out", type=click.Choice(["simple", "json"]), default="simple", help="Output."
            ),
        )
    ):
        function = option(function)
    return function


@bench_command.command("put")
@_load_options
def put(**options: Any) -> int:
    """Write random keys."""
    return _run("put", options)


@bench_command.command("range")
@click.option(
    "--consistency", type=click.Choice(["l", "s"]), default="l", help="l linearizable, s serializable."
)
@_load_options
def range_(consistency: str, **options: Any) -> int:
    """Read random single keys, which are written first."""
    return _run("range", options, consistency)


def _run(operation: str, options: dict[str, Any], consistency: str = "l") -> int:
    from oarlock.bench import Load, Operation

    load = Load(
        operation=Operation(operation),
        endpoints=tuple(options["endpoints"]),
        clients=options["clients"],
        connections=min(options["connections"], options["clients"]),
        total=options["total"],
        seconds=options["duration"] or (0.0 if options["total"] else 10.0),
        key_size=options["key_size"],
        value_size=options["value_size"],
        keys=options["keys"],
        linearizable=consistency == "l",
        seed=options["seed"],
    )
    report = run_async(_measure(load, options["write_out"] == "simple"))
    if options["write_out"] == "json":
        click.echo(json.dumps(_as_json(report)))
    else:
        _show(load, report)
    return 1 if report.failed or not report.answered else 0


async def _measure(load: Load, show_progress: bool) -> Report:
    from rich.console import Console

    from oarlock.bench import Operation, fill, run_load

    if load.operation is Operation.RANGE:
        await fill(load.endpoints, load.keys, load.key_size, load.value_size)
    console = Console(stderr=True)
    if not (show_progress and console.is_terminal):
        return await run_load(load)
    with console.status("connecting") as status:
        return await run_load(load, lambda answered: status.update(f"{answered:,} answered"))


def _as_json(report: Report) -> dict[str, Any]:
    latency = report.latency
    return {
        "answered": report.answered,
        "failed": report.failed,
        "seconds": round(report.seconds, 6),
        "per_second": round(report.per_second, 1),
        "latency_seconds": {
            name: round(getattr(latency, name), 6) for name in ("p50", "p90", "p99", "p999", "max", "mean")
        },
        "errors": report.errors,
    }


def _show(load: Load, report: Report) -> None:
    click.echo(
        f"{load.operation.value}: {load.clients:,} clients on {load.connections:,} connections, "
        f"{report.seconds:.2f} s"
    )
    click.echo(f"  answered    {report.answered:>12,}")
    click.echo(f"  failed      {report.failed:>12,}")
    click.echo(f"  per second  {report.per_second:>12,.0f}")
    for label, value in (
        ("p50", report.latency.p50),
        ("p90", report.latency.p90),
        ("p99", report.latency.p99),
        ("p99.9", report.latency.p999),
        ("max", report.latency.max),
    ):
        click.echo(f"  {label:<10}  {value * 1000:>12.2f} ms")
    cpu = report.client_cpu_seconds / report.answered * 1e6 if report.answered else 0.0
    click.echo(f"  load generator: {cpu:.1f} µs of CPU per request")
    for message, count in list(report.errors.items())[:5]:
        click.echo(f"  {count:,} × {message}", err=True)
