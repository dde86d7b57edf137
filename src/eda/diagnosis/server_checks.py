"""Checks of the server: version, features, limits, encryption, clocks, and when it writes to disk."""

from __future__ import annotations

import ipaddress
import platform
from collections.abc import Iterator

from eda._version import __version__
from eda.amounts import duration_text, size_text
from eda.diagnosis.facts import Facts
from eda.diagnosis.finding import Finding, listed

__all__ = ["check_server"]

SMALL_PAYLOAD = 256 * 1024
SLOW_S = 0.05
TOO_SLOW_S = 1.0
SKEW_S = 1.0
LARGE_SKEW_S = 60.0


def check_server(facts: Facts) -> Iterator[Finding]:
    """Yield what is found about the server and the connection to it."""
    yield _version(facts)
    yield from _features(facts)
    yield _durability()
    yield _payload(facts)
    yield _round_trip(facts)
    yield _clock(facts)
    yield from _security(facts)
    if facts.api.wire.is_lame_duck:
        yield Finding(
            severity="warning",
            check="lame_duck",
            message="The server is about to shut down, and sends its clients away (lame duck mode).",
            advice="Connect to another server of the cluster, or wait until it is back.",
        )


def _version(facts: Facts) -> Finding:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    server = f"nats-server {facts.api.wire.server_version}, API level {facts.api.level}"
    domain = f", domain {facts.api.domain}" if facts.api.domain else ""
    return Finding(severity="ok", check="version", message=f"eda {__version__} on {python}; {server}{domain}.")


def _features(facts: Facts) -> Iterator[Finding]:
    api = facts.api
    has_expectations = api.level >= 1 and _at_least(api.wire.server_version, 2, 11)
    features = (
        ("event stores", has_expectations, "2.11", "conn.store refuses to open a stream"),
        ("message TTL", has_expectations, "2.11", "a stream can't be marked for event stores"),
        ("reliable filters", api.filters_reliably, "2.12", "members filter some subscriptions by themselves: slower"),
        ("atomic batches", api.has_atomic_ids, "2.12.1", "conn.publish_batch raises NotSupported"),
        ("fast ingest", api.has_fast_ingest, "2.14", "publishers wait for an acknowledgement of each message: slower"),
    )
    has = [name for name, there, _, _ in features if there]
    if has:
        yield Finding(severity="ok", check="features", message=f"The server has {listed(has)}.")
    for name, there, since, effect in features:
        if not there:
            yield Finding(
                severity="note",
                check="features",
                message=f"The server does not have {name}: {effect}.",
                advice=f"Use nats-server {since} or later.",
            )
    if api.has_atomic and not api.has_sound_batches:
        yield Finding(
            severity="warning",
            check="unsound_batches",
            message="This version of the server may accept two conflicting appends of an event store on a stream with "
            "replicas, so an aggregate may get two events of one version.",
            advice="Use nats-server 2.12.14, 2.14.4 or later.",
        )


def _durability() -> Finding:
    return Finding(
        severity="note",
        check="sync_interval",
        message="The server acknowledges an event before it has written it to the disk, which it does every 2 minutes "
        "by default. If all replicas lose power at once, events of that time may be lost. The server does not tell its "
        "sync_interval.",
        advice="If this must not happen, set `jetstream { sync_interval: always }` on the server, or keep replicas "
        "that don't lose power together.",
    )


def _payload(facts: Facts) -> Finding:
    most = facts.server.get("max_payload", 0)
    message = f"An event, or a pack of events, has at most {size_text(most)} (max_payload)."
    if most < SMALL_PAYLOAD:
        advice = f"If larger events are possible, raise max_payload on the server: its default is {size_text(2**20)}."
        return Finding(severity="warning", check="max_payload", message=message, advice=advice)
    return Finding(severity="ok", check="max_payload", message=message)


def _round_trip(facts: Facts) -> Finding:
    took = facts.round_trip_s
    message = f"The server answers a request after {duration_text(took)}."
    if took < SLOW_S:
        return Finding(severity="ok", check="round_trip", message=message)
    return Finding(
        severity="note" if took < TOO_SLOW_S else "warning",
        check="round_trip",
        message=f"{message} Each conn.publish takes at least as long.",
        advice="Publish many events through conn.publisher, or run the program closer to the server.",
    )


def _clock(facts: Facts) -> Finding:
    skew_s = facts.skew_s
    if skew_s is None:
        message = "The clock of the server is not known: no stream tells the time."
        return Finding(severity="ok", check="clock", message=message)
    if abs(skew_s) < SKEW_S:
        message = "The clocks of the server and of this machine agree."
        return Finding(severity="ok", check="clock", message=message)
    side = "ahead of" if skew_s > 0 else "behind"
    return Finding(
        severity="warning" if abs(skew_s) < LARGE_SKEW_S else "problem",
        check="clock",
        message=f"The clock of the server is {duration_text(abs(skew_s))} {side} the clock of this machine. The times "
        "of events that this machine publishes, starts by time, and lags in seconds are wrong by as much.",
        advice="Synchronize the clocks of both machines (NTP).",
    )


def _security(facts: Facts) -> Iterator[Finding]:
    info = facts.server
    if not info.get("tls_required") and not _is_loopback(info.get("client_ip")):
        yield Finding(
            severity="warning",
            check="encryption",
            message="The connection is not encrypted: whoever sees the traffic between the machines can read events "
            "and credentials.",
            advice="Set `tls` on the server.",
        )
    if not info.get("auth_required") and not _is_loopback(info.get("host")):
        yield Finding(
            severity="warning",
            check="authentication",
            message="The server lets everybody in who reaches it, so anyone may read and delete all streams.",
            advice="Set `authorization` or `accounts` on the server, or let it listen on a loopback address only.",
        )


def _is_loopback(address: object) -> bool:
    """Return whether the address is one of this machine only; also if the server does not tell the address."""
    if not isinstance(address, str) or not address or address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _at_least(version: str, major: int, minor: int) -> bool:
    parts = version.split(".")
    try:
        return (int(parts[0]), int(parts[1])) >= (major, minor)
    except (IndexError, ValueError):
        return False
