"""What a shared consumer's settings take away from its members, and what they should be instead.

Somebody may edit a consumer at any time, and nothing tells its members but their own look. Only settings that take
something away are changed back, so two members never fight over one, and neither does a member with an operator who
gives it more.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    "reader_settings",
    "repaired",
    "shown_faults",
    "subjects_of",
    "unrepairable",
]

MAX_ACK_PENDING = 65_536
# The filter of a consumer that had one and shall have none. A server up to 2.15 at least tells a consumer whose filter
# was taken away nothing of new messages, until it is asked again.
ALL_SUBJECTS = ">"
READER_LIFE_S = 60.0  # how long the server keeps a reader that nobody pulls from
# Of a reader's settings, these may differ from what it was made with.
UNIMPORTANT = frozenset({"metadata", "description"})


@dataclass(frozen=True, slots=True)
class Needs:
    """What the members of a consumer rely on. `life_ns`: how long it is there without a member, 0 for ever."""

    ack_wait_ns: int
    life_ns: int
    filter_subjects: tuple[str, ...]  # what the server is asked to filter by
    replicas: int = 1  # of the stream
    most_unacknowledged: int = MAX_ACK_PENDING  # less where the server allows no more


@dataclass(frozen=True, slots=True)
class Fault:
    """A setting that takes something away. `is_vital`: without it no promise can be kept."""

    setting: str
    found: Any
    needed: Any
    is_vital: bool = True


def find_faults(config: dict[str, Any], needs: Needs, *, is_filter_ours: bool, opening: bool = False) -> list[Fault]:
    """Return the settings that take something away, and can be changed.

    `is_filter_ours`: the consumer is said to filter for members like this one. A filter that lets more through takes
    nothing away, since members filter as well: it is narrowed for speed when a member is `opening`, and then left to
    members on older servers, which can't rely on it.
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
    """Return the subjects that the server filters a consumer by; empty: it delivers all."""
    subjects = _filter_of(config)
    return [] if ALL_SUBJECTS in subjects else subjects


def unrepairable(config: dict[str, Any], *, is_durable: bool, is_file: bool) -> list[str]:
    """Return what is wrong with a kept consumer's settings that can't be changed any more, in words."""
    wrong = []
    if config.get("replay_policy", "instant") != "instant":
        wrong.append(f"it has replay_policy={config['replay_policy']!r}, which withholds events; 'instant' is needed")
    if is_durable and is_file and config.get("mem_storage"):
        wrong.append("it has mem_storage=True, so a restart of the server would forget its position")
    return wrong


def repaired(config: dict[str, Any], found: list[Fault]) -> dict[str, Any]:
    """Return the settings without the losses."""
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
    """Return the losses as messages show them: each setting with both values."""
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
    """Return the first setting of a reader that is not as it was made, with both values; empty: none."""
    for setting in sorted((made.keys() | now.keys()) - UNIMPORTANT):
        if made.get(setting) != now.get(setting):
            return f"{setting} was {made.get(setting)!r} and is {now.get(setting)!r}"
    return ""


def _filter_of(config: dict[str, Any]) -> list[str]:
    single = config.get("filter_subject")
    subjects: list[str] = config.get("filter_subjects") or ([single] if single else [])
    return subjects


def _shown(loss: Fault, value: Any) -> str:
    if loss.setting in ("ack_wait", "inactive_threshold"):
        return f"{value / NS:g} s"
    return repr(value)
