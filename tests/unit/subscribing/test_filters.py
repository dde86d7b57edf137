"""The subjects that a subscription with a filter asks the server for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from eda.errors import ConfigError
from eda.jetstream.stream_info import StreamInfo
from eda.jetstream.subjects import PACK_TOKEN, escape_token, filter_subjects, is_covered, overlaps, parse_subject
from eda.options import StreamOptions, SubscriptionOptions
from eda.subscribing.filters import server_filter, shared_filter, with_note
from eda.subscribing.shared_or_ordered import check_retention

PLAIN = StreamInfo(
    name="s",
    events=0,
    bytes=0,
    first_sequence=0,
    last_sequence=0,
    created=datetime(2026, 1, 1, tzinfo=UTC),
    subjects=("s", "s.>"),
    options=StreamOptions(),
    atomic=True,
    fast_ingest=True,
)
PACKED = replace(PLAIN, options=StreamOptions(packed=True))


@pytest.mark.parametrize(
    ("types", "aggregate", "asked"),
    [
        (None, None, []),
        (["a"], None, ["s", "s.a.*", "s.%pack.*"]),
        (["a", "b"], None, ["s", "s.a.*", "s.%pack.*", "s.b.*"]),
        (None, "4711", ["s", "s.*.4711", "s.*.%pack"]),
        (["a"], "4711", ["s", "s.a.4711", "s.a.%pack", "s.%pack.4711", "s.%pack.%pack"]),
        (
            ["", "%pack"],
            "",
            ["s", "s._._", "s._.%pack", "s.%pack._", "s.%pack.%pack", "s.%25pack._", "s.%25pack.%pack"],
        ),
    ],
)
def test_server_filter_when_the_stream_is_packed_asks_for_each_pack_that_may_match(
    types: list[str] | None, aggregate: str | None, asked: list[str]
) -> None:
    wanted = filter_subjects("s", types, aggregate)
    assert server_filter(PACKED, wanted, filters_reliably=True) == asked
    assert server_filter(PLAIN, wanted, filters_reliably=True) == wanted
    # The server refuses a consumer whose subjects overlap.
    assert not any(overlaps(one, other) for one in asked for other in asked if one != other)


@pytest.mark.parametrize("type_token", ["a", "b", PACK_TOKEN])
@pytest.mark.parametrize("aggregate_token", ["x", "y", PACK_TOKEN])
@pytest.mark.parametrize("types", [None, ["a"]])
@pytest.mark.parametrize("aggregate", [None, "x"])
def test_server_filter_when_packed_misses_no_pack_with_a_wanted_event(
    types: list[str] | None, aggregate: str | None, type_token: str, aggregate_token: str
) -> None:
    may_match = (types is None or type_token in ("a", PACK_TOKEN)) and (
        aggregate is None or aggregate_token in ("x", PACK_TOKEN)
    )
    asked = server_filter(PACKED, filter_subjects("s", types, aggregate), filters_reliably=True) or [">"]
    assert is_covered(f"s.{type_token}.{aggregate_token}", asked) == may_match


@pytest.mark.parametrize(
    "changes",
    [{"mirror": "o"}, {"sources": ("o",)}, {"subject_transform": "x.>"}, {"subjects": ("s.>", "foreign.>")}],
    ids=str,
)
def test_server_filter_when_the_stream_has_other_subjects_leaves_packs_to_the_client(changes: dict[str, Any]) -> None:
    assert server_filter(replace(PACKED, **changes), ["s", "s.a.*"], filters_reliably=True) == []
    assert server_filter(PACKED, ["s", "s.a.*"], filters_reliably=False) == []


def test_pack_token_is_the_token_of_no_text() -> None:
    assert escape_token(PACK_TOKEN) != PACK_TOKEN
    for subject in ("s.%pack.x", "s.x.%pack", "s.%pack.%pack"):
        with pytest.raises(ConfigError, match="is not the subject of an event"):
            parse_subject(subject)


@pytest.mark.parametrize("option", [{"types": ["a"]}, {"aggregate": "x"}], ids=str)
def test_retention_when_a_packed_work_queue_is_filtered_is_refused(option: dict[str, Any]) -> None:
    queue = replace(PACKED, retention="workqueue")
    options = {"name": "n", "durable": True, "backfill": True}
    with pytest.raises(ConfigError, match="acknowledges a pack for all of its events") as caught:
        check_retention(queue, SubscriptionOptions(**options, **option), filters_reliably=True)
    assert caught.value.argument == next(iter(option))
    check_retention(queue, SubscriptionOptions(**options), filters_reliably=True)
    check_retention(
        replace(PACKED, retention="interest"), SubscriptionOptions(**options, **option), filters_reliably=True
    )


def test_shared_filter_is_the_note_or_the_subjects_without_those_of_packs() -> None:
    wanted = ["s", "s.a.*"]
    config: dict[str, Any] = {"filter_subjects": ["s", "s.a.*", "s.%pack.*"], "metadata": with_note({"k": "v"}, wanted)}
    assert config["metadata"] == {"k": "v", "eda-filter": "s s.a.*"}
    assert shared_filter(config) == wanted
    config["metadata"] = with_note(config["metadata"], [])
    assert config["metadata"] == {"k": "v"}
    assert shared_filter(config) == wanted
