"""eda.schemas.compatibility: types, aliases, encodings and schema ids of two releases."""

from __future__ import annotations

from typing import Any

import pytest

from eda.errors import ConfigError
from eda.schemas.compatibility import compare, is_breaking
from eda.schemas.finding import NEW_READERS, NOBODY, OLD_READERS

OLD_FORM = {"type": "object", "properties": {"amount": {"type": "number"}}, "required": ["amount"]}
NEW_FORM = {"type": "object", "properties": {"cents": {"type": "integer"}}, "required": ["cents"]}
MESSAGE = {"message": "M", "messages": {"M": {"fields": {"1": {"name": "a", "type": "int64"}}}}}


def entry(schema: str = "", *steps: str, aliases: str = "", encoding: str = "json", **payload: Any) -> dict[str, Any]:
    """Return an entry. A step is written as "1>2"."""
    upcasters = [step.split(">") for step in steps]
    made = {"schema": schema, "aliases": aliases.split(), "encoding": encoding, "upcasters": upcasters}
    return {**made, **(payload or {"payload": OLD_FORM})}


def findings(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(each.type, each.change, each.breaks) for each in compare(old, new)]


def test_type_when_added_or_unchanged_is_no_finding() -> None:
    assert compare({"paid": entry()}, {"paid": entry(aliases="payed"), "sent": entry()}) == []
    assert not is_breaking([])


def test_schema_when_it_is_the_first_one_says_that_old_readers_do_not_look_at_it() -> None:
    found = findings({"paid": entry()}, {"paid": entry("2", ">2", payload=NEW_FORM)})
    change = "the schema changed from '' to '2', but old readers have no id and take new events for old ones"
    assert found == [("paid", change, NOBODY)]


def test_type_when_removed_breaks_new_readers() -> None:
    assert findings({"paid": entry()}, {"sent": entry()}) == [("paid", "the type was removed", NEW_READERS)]


def test_type_when_it_became_an_alias_is_a_notice() -> None:
    found = compare({"payed": entry()}, {"paid": entry(aliases="payed")})
    assert [(each.change, each.breaks) for each in found] == [
        ("the type is now an alias of 'paid', which old readers don't know", NOBODY)
    ]
    assert not is_breaking(found)
    assert str(found[0]).endswith("don't know. Deploy all readers before the first writer.")


def test_type_when_it_became_an_alias_of_another_form_breaks_readers() -> None:
    found = findings({"payed": entry()}, {"paid": entry(aliases="payed", payload=NEW_FORM)})
    assert [breaks for *_, breaks in found] == [NOBODY, NEW_READERS]


def test_type_when_it_changes_places_with_its_alias_is_no_finding() -> None:
    old, new = {"payed": entry(aliases="paid")}, {"paid": entry(aliases="payed")}
    assert compare(old, new) == []
    new["paid"]["payload"] = NEW_FORM
    assert [each.breaks for each in compare(old, new)] == [OLD_READERS, NEW_READERS]


def test_type_when_it_is_merged_into_another_one_is_compared_with_that() -> None:
    old = {"a": entry(), "b": entry(payload=NEW_FORM)}
    assert findings(old, {"b": entry(aliases="a", payload=NEW_FORM)}) == [
        ("a", "a stored event does not have this field, but a new reader requires it", NEW_READERS)
    ]


def test_alias_when_removed_or_moved_breaks_new_readers() -> None:
    old = {"paid": entry(aliases="payed settled")}
    new = {"paid": entry(), "sent": entry(aliases="settled")}
    assert findings(old, new) == [
        ("paid", "the alias 'payed' was removed", NEW_READERS),
        ("paid", "the alias 'settled' moved to the type 'sent'", NEW_READERS),
    ]


@pytest.mark.parametrize(
    ("old", "new", "n_breaks"),
    [("json", "msgpack", 0), ("msgpack", "json", 0), ("json", "csv", 2), ("proto", "json", 2), ("msgpack", "proto", 2)],
)
def test_encoding_when_changed_breaks_both_unless_it_is_plain(old: str, new: str, n_breaks: int) -> None:
    found = compare({"paid": entry(encoding=old)}, {"paid": entry(encoding=new)})
    assert [each.breaks for each in found] == [NEW_READERS, OLD_READERS][:n_breaks]


def test_payload_when_changed_under_one_id_breaks_both() -> None:
    assert findings({"paid": entry("1")}, {"paid": entry("1", payload=NEW_FORM)}) == [
        ("paid", "a new event does not have this field, but an old reader requires it", OLD_READERS),
        ("paid", "a stored event does not have this field, but a new reader requires it", NEW_READERS),
    ]


def test_payload_when_changed_under_a_new_id_with_upcasters_is_a_notice() -> None:
    new = {"paid": entry("3", "1>2", "2>3", payload=NEW_FORM)}
    found = compare({"paid": entry("1")}, new)
    assert [(each.change, each.breaks) for each in found] == [
        ("the schema changed from '1' to '3', which old readers don't know", NOBODY)
    ]


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        (entry("1"), entry("2"), "the schema changed from '1' to '2', and no upcasters lead from one to the other"),
        (entry(""), entry("2"), "the schema changed from '' to '2', and no upcasters lead from one to the other"),
        (entry("2", "1>2"), entry("1"), "the schema goes back from '2' to the older id '1'"),
        (entry("2", "1>2"), entry("1", "2>1"), "the schema goes back from '2' to the older id '1'"),
        (entry("2", "1>2"), entry("2"), "stored events of the schema '1' have no upcasters to '2' any more"),
        (entry("2", "1>2"), entry("3", "2>3"), "stored events of the schema '1' have no upcasters to '3' any more"),
        (entry("2", "1>2"), entry(""), "stored events of the schema '1' have no upcasters to '' any more"),
    ],
)
def test_schema_id_when_stored_events_lose_their_way_breaks_new_readers(old: Any, new: Any, change: str) -> None:
    assert ("paid", change, NEW_READERS) in findings({"paid": old}, {"paid": new})


def test_schema_id_when_a_step_is_split_keeps_the_way() -> None:
    assert compare({"paid": entry("3", "1>3")}, {"paid": entry("3", "1>2", "2>3")}) == []


def test_schema_id_when_given_up_still_needs_the_form_of_stored_events() -> None:
    assert [breaks for *_, breaks in findings({"paid": entry("1")}, {"paid": entry("", payload=NEW_FORM)})] == [
        NOBODY,
        NEW_READERS,
    ]


def test_upcasters_when_they_lead_in_a_circle_end_nowhere() -> None:
    found = findings({"paid": entry("3")}, {"paid": entry("4", "3>2", "2>3")})
    assert [breaks for *_, breaks in found] == [NEW_READERS]


def test_protobuf_when_changed_names_the_field_and_what_is_cut() -> None:
    small = {"message": "M", "messages": {"M": {"fields": {"1": {"name": "a", "type": "int32"}}}}}
    text = {"message": "M", "messages": {"M": {"fields": {"1": {"name": "a", "type": "string"}}}}}
    old = {"paid": entry(encoding="proto", protobuf=MESSAGE)}
    cut = compare(old, {"paid": entry(encoding="proto", protobuf=small)})
    assert [(each.path, each.breaks) for each in cut] == [("$.a", NOBODY)]
    changed = compare(old, {"paid": entry(encoding="proto", protobuf=text)})
    assert [(each.path, each.breaks) for each in changed] == [("$.a", OLD_READERS), ("$.a", NEW_READERS)]
    removed = compare(
        old, {"paid": entry(encoding="proto", protobuf={"message": "M", "messages": {"M": {"fields": {}}}})}
    )
    assert [each.path for each in removed] == ["M.1"]


def test_payload_when_its_kind_changed_breaks_both() -> None:
    new = {"paid": entry(encoding="csv", protobuf=MESSAGE)}
    assert len(compare({"paid": entry(encoding="csv")}, new)) == 2


def test_finding_when_printed_says_what_breaks_whom_and_what_to_do() -> None:
    (found, *_) = compare({"paid": entry("1")}, {"paid": entry("1", payload=NEW_FORM)})
    assert str(found) == (
        "paid $.amount: a new event does not have this field, but an old reader requires it. "
        "This breaks old readers of new events. Keep the field, and keep it required; "
        "or declare a new schema id, write an upcaster to it, and "
        "deploy readers before writers."
    )
    assert found.to_dict().keys() == {"type", "path", "change", "breaks", "advice"}


@pytest.mark.parametrize("payload", [{"$ref": "#/nothing"}, {"type": "string", "minLength": "a"}, 7])
def test_payload_when_it_is_no_schema_is_refused(payload: Any) -> None:
    with pytest.raises(ConfigError, match=r"^the schema of the type 'paid' can't be read: "):
        compare({"paid": entry(payload=payload)}, {"paid": entry(payload={"type": "string", "minLength": 1})})
