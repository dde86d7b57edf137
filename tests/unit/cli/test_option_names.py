"""eda.cli.option_names: errors about arguments of Python, told with the options of the command."""

from __future__ import annotations

import pytest

import eda
from eda.cli.option_names import told
from support.cli.tree import COMMANDS


def text_of(error: Exception, *words: str) -> str:
    """Return how the command that these words call tells the error."""
    path = next(path for path in COMMANDS if words[: len(path)] == path)
    with COMMANDS[path].make_context(path[-1], list(words[len(path) :])):
        return told(error)


def settings(**given: object) -> eda.ConfigError:
    with pytest.raises(eda.ConfigError) as caught:
        eda.StreamOptions(**given)  # type: ignore[arg-type]
    return caught.value


def test_told_when_a_value_is_wrong_names_the_option_and_its_none() -> None:
    told_bytes = text_of(settings(max_bytes=0), "streams", "create", "a", "--max-bytes", "0")
    assert told_bytes.startswith("--max-bytes must be a whole number from 1 to ")
    assert told_bytes.endswith(" or none, not 0")
    told_age = text_of(settings(max_age_s=0.0), "streams", "create", "a", "--max-age", "0s")
    assert told_age == "--max-age must be a number of seconds, 0.1 or more or none, not 0.0"


def test_told_when_settings_contradict_each_other_names_both_as_they_are_typed() -> None:
    told_age = text_of(settings(max_age_s=86400.0, store=True), "streams", "create", "a", "--max-age", "1d", "--store")
    assert told_age.startswith("--max-age=86400s can't be combined with --store: ")
    assert "max_age_s" not in told_age
    told_bytes = text_of(settings(max_bytes=5, store=True), "streams", "update", "a", "--max-bytes", "5")
    assert told_bytes.endswith(
        "and --max-bytes discards old ones; with --discard=new a full stream refuses new events instead"
    )


@pytest.mark.parametrize(
    ("text", "argument", "words", "expected"),
    [
        ("user and password must be given", "password", "lag --user x", "--user and --password must be given"),
        ("user and password must be given", "password", "lag", "user and password must be given"),
        ("addr: 'x' is bad", "addr", "lag --addr x", "--addr: 'x' is bad"),
        ("addr: 'x' is bad", "addr", "lag", "addr: 'x' is bad"),
        ("dead_letter must be 'dead_letter=1'", "dead_letter", "dead ls a --dead-letter x",
         "--dead-letter must be 'dead_letter=1'"),
        ("start must be an int, or None", "start", "tail a --from 1", "--from must be a whole number"),
        ("types must be a str", "types", "tail a --type x", "--type must be a text"),
        ("atomic=False is bad", "atomic", "streams create a --no-atomic", "--no-atomic is bad"),
        ("max_age_s=None is bad", "max_age_s", "streams create a --max-age none", "--max-age=none is bad"),
        ("name must be short", "name", "subs rm a b", "name must be short"),
        ("max_bytes=5", "max_bytes", "lag", "max_bytes=5"),
        ("before and keep\ncan't be", "keep", "streams purge a --keep 2", "--before and --keep can't be"),
    ],
)  # fmt: skip
def test_told_when_the_command_has_the_option_names_it(text: str, argument: str, words: str, expected: str) -> None:
    assert text_of(eda.ConfigError(text, argument=argument), *words.split()) == expected


def test_told_when_it_is_no_error_about_an_argument_is_only_one_line() -> None:
    assert text_of(eda.ConfigError("max_bytes\nis  5"), "streams", "create", "a") == "max_bytes is 5"
    assert text_of(OSError("max_bytes=5"), "streams", "create", "a") == "max_bytes=5"
    assert told(eda.ConfigError("max_bytes=5", argument="max_bytes")) == "max_bytes=5"
