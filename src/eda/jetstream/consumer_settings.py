"""The settings of a shared consumer that harm its members, and their repair.

An operator may change a consumer at any time, and the server does not tell its members. So the members check its
settings regularly. A member repairs only settings that take something away from it. So two members never undo each
other's changes, and a member never undoes an operator's change that only raises a limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from eda.jetstream.subjects import covers
from eda.times import NS

__all__ = [
    "ALL_SUBJECTS",
    "MAX_ACK_PENDING",
    "READER_LIFE_S",
    "Fault",
    "Needs",
    "changed_settings",
    "find_faults",
    "is_attended",
    "reader_settings",
    "repaired",
    "shown_faults",
    "subjects_of",
    "unrepairable",
]

MAX_ACK_PENDING = 65_536
# This filter is set instead of removing a consumer's filter. After a removal, servers (at least up to 2.15) do not
# notify the consumer of new messages until its next pull.
ALL_SUBJECTS = ">"
READER_LIFE_S = 60.0  # how long the server keeps a reader without pulls
# Settings of a reader that may differ from those with which it was created.
UNIMPORTANT = frozenset({"metadata", "description"})


@dataclass(frozen=True, slots=True)
class Needs:
    """The settings on which the members rely. `life_ns`: how long the consumer lives without a member; 0: forever."""

    ack_wait_ns: int
    life_ns: int
    filter_subjects: tuple[str, ...]  # the subjects by which the server must filter
    replicas: int = 1  # of the stream
    most_unacknowledged: int = MAX_ACK_PENDING  # lower if the server has a lower limit


@dataclass(frozen=True, slots=True)
class Fault:
    """A setting that takes something away from the members. `is_vital`: without a repair, a guarantee is broken."""

    setting: str
    found: Any
    needed: Any
    is_vital: bool = True


def find_faults(config: dict[str, Any], needs: Needs, *, is_filter_ours: bool, opening: bool = False) -> list[Fault]:
    """Return the settings that take something away from the members, and that can be changed.

    `is_filter_ours`: the consumer's label names the same filter as this member's. If the consumer's real filter is
    wider, nothing is lost, because members filter as well. A member narrows the filter, for speed, only when it is
    `opening`. Later, another member may have widened the filter, because its server is too old to filter reliably.
    """
    found = []
    if config.get("headers_only"):
        found.append(Fault("headers_only", True, False))
    most = config.get("max_deliver", -1)
    if most > 0:
        found.append(Fault("max_deliver", most, -1))
    if config.get("backoff"):
        found.append(Fault("backoff", [each / NS for each in config["backoff"]], []))
    life_ns = config.get("inactive_threshold", 0)
    if life_ns and not needs.life_ns:
        found.append(Fault("inactive_threshold", life_ns, 0))
    elif 0 < life_ns < needs.life_ns:
        found.append(Fault("inactive_threshold", life_ns, needs.life_ns, is_vital=False))
    subjects, needed = subjects_of(config), list(needs.filter_subjects)
    lets_more_through = bool(_filter_of(config)) and covers(subjects, needed) and not opening
    if is_filter_ours and set(subjects) != set(needed) and not lets_more_through:
        found.append(Fault("filter_subjects", subjects, needed))
    if 0 < config.get("ack_wait", 0) < needs.ack_wait_ns:
        found.append(Fault("ack_wait", config["ack_wait"], needs.ack_wait_ns, is_vital=False))
    if not needs.life_ns and 0 < config.get("num_replicas", 0) < needs.replicas:
        found.append(Fault("num_replicas", config["num_replicas"], needs.replicas, is_vital=False))
    if 0 < config.get("max_ack_pending", -1) < needs.most_unacknowledged:
        found.append(Fault("max_ack_pending", config["max_ack_pending"], needs.most_unacknowledged, is_vital=False))
    return found


def subjects_of(config: dict[str, Any]) -> list[str]:
    """Return the subjects by which the server filters; [] if the consumer delivers all."""
    subjects = _filter_of(config)
    return [] if ALL_SUBJECTS in subjects else subjects


def unrepairable(config: dict[str, Any], *, is_durable: bool, is_file: bool) -> list[str]:
    """Return a text for each wrong setting of an existing consumer that can't be changed."""
    wrong = []
    if config.get("replay_policy", "instant") != "instant":
        wrong.append(f"it has replay_policy={config['replay_policy']!r}, which withholds events; 'instant' is needed")
    if is_durable and is_file and config.get("mem_storage"):
        wrong.append("it has mem_storage=True, so a restart of the server would forget its position")
    return wrong


def repaired(config: dict[str, Any], found: list[Fault]) -> dict[str, Any]:
    """Return the settings with the faults repaired."""
    config = dict(config)
    for each in found:
        if each.setting == "filter_subjects":
            config.pop("filter_subject", None)
            config["filter_subjects"] = each.needed or [ALL_SUBJECTS]
        elif each.needed == []:
            config.pop(each.setting, None)
        else:
            config[each.setting] = each.needed
    return config


def shown_faults(found: list[Fault]) -> str:
    """Return the faults as text for messages: each setting with both values."""
    return ", ".join(
        f"{each.setting}={_shown(each, each.found)} ({_shown(each, each.needed)} is needed)" for each in found
    )


def reader_settings(name: str, life_s: float | None = None) -> dict[str, Any]:
    """Return the settings that all readers have: temporary consumers without acknowledgements, kept in memory."""
    return {
        "name": name,
        "ack_policy": "none",
        "replay_policy": "instant",
        "inactive_threshold": int((READER_LIFE_S if life_s is None else life_s) * NS),
        "mem_storage": True,
        "num_replicas": 1,
    }


def changed_settings(made: dict[str, Any], now: dict[str, Any]) -> str:
    """Return a text with the first changed setting of a reader and both values; "" if no setting was changed."""
    for setting in sorted((made.keys() | now.keys()) - UNIMPORTANT):
        if made.get(setting) != now.get(setting):
            return f"{setting} was {made.get(setting)!r} and is {now.get(setting)!r}"
    return ""


def is_attended(info: dict[str, Any]) -> bool:
    """Return whether a member seems to be attached to a shared consumer, given the answer of the server about it.

    That is so if a pull is open. It is also so if events are unacknowledged, and the consumer's last delivery or
    acknowledgement is younger than the lease.
    """
    if info.get("num_waiting"):
        return True
    if not info.get("num_ack_pending"):
        return False
    times = [(info.get(part) or {}).get("last_active") for part in ("delivered", "ack_floor")]
    try:
        latest = max(datetime.fromisoformat(each) for each in times if each)
        age_s = (datetime.fromisoformat(info["ts"]) - latest).total_seconds()
    except (KeyError, TypeError, ValueError):
        return True  # the server does not tell, so assume that a member is attached
    return bool(age_s < info["config"].get("ack_wait", 0) / NS)


def _filter_of(config: dict[str, Any]) -> list[str]:
    single = config.get("filter_subject")
    subjects: list[str] = config.get("filter_subjects") or ([single] if single else [])
    return subjects


def _shown(loss: Fault, value: Any) -> str:
    if loss.setting in ("ack_wait", "inactive_threshold"):
        return f"{value / NS:g} s"
    return repr(value)
