"""The description and metadata of what eda makes."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eda.jetstream.labels import labels, labels_of, with_marks


def test_labels_when_made_name_who_made_what() -> None:
    made = labels("shared", client="billing", what="subscription n of stream s", subscription="n")
    assert made["description"] == "eda: subscription n of stream s, made by billing"
    version = made["metadata"].pop("eda-version")
    assert re.match(r"\d+\.\d+", version)
    assert made["metadata"] == {"eda-kind": "shared", "eda-client": "billing", "eda-subscription": "n"}
    assert "eda-subscription" not in labels("stream", client="c", what="stream s")["metadata"]


@given(st.text(st.characters(), max_size=2000))
def test_labels_when_the_client_is_any_text_are_short_and_printable(client: str) -> None:
    made = labels("reader", client=client, what="x")
    shown = made["metadata"]["eda-client"]
    assert len(shown) <= 128
    assert shown.isprintable()
    assert made["description"].isprintable()
    json.dumps(made).encode()


@pytest.mark.parametrize("config", [{}, {"metadata": None}, {"metadata": {"_nats.ver": "2.15.1"}}])
def test_labels_when_an_existing_one_has_none_are_empty(config: dict[str, object]) -> None:
    assert labels_of(config) == {"description": "", "metadata": {}}


def test_labels_when_they_are_of_an_existing_one_are_without_the_servers_notes() -> None:
    config = {"description": "d", "metadata": {"_nats.ver": "2.15.1", "team": "billing"}}
    assert labels_of(config) == {"description": "d", "metadata": {"team": "billing"}}


def test_marks_when_set_or_removed_keep_other_metadata() -> None:
    assert with_marks(None, store=False, packed=False) == {}
    assert with_marks({"team": "a"}, store=True, packed=False) == {"team": "a", "eda-store": "1"}
    assert with_marks({"team": "a"}, store=False, packed=True) == {"team": "a", "eda-packed": "1"}
    assert with_marks({"team": "a", "eda-store": "1", "eda-packed": "1"}, store=False, packed=False) == {"team": "a"}
