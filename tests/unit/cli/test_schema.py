"""`eda schema`: the commands as processes, with modules of a user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

ORDERS = """
from dataclasses import dataclass
import eda

@eda.payload("order-paid", schema="{schema}", aliases=["payment-made"])
@dataclass
class OrderPaid:
    amount: {type}
    {more}
{after}
"""


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eda.cli", "schema", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60)


def orders(schema: str = "2", type_: str = "int", more: str = "", after: str = "") -> str:
    return ORDERS.format(schema=schema, type=type_, more=more, after=after)


def export(directory: Path, name: str, source: str, *options: str) -> str:
    """Export a module with this source, and return the name of the file."""
    (directory / f"{name}.py").write_text(source, encoding="utf-8")
    ended = run(directory, "export", name, "-o", f"{name}.json", *options)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    return f"{name}.json"


def test_export_when_no_file_is_named_prints_the_document(tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(orders(after="print('imported')"))
    ended = run(tmp_path, "export", "orders")
    assert (ended.returncode, ended.stderr) == (0, "imported\n")
    document = json.loads(ended.stdout)
    assert list(document) == ["$schema", "x-eda", "$defs"]
    paid = document["$defs"]["order-paid"]
    assert paid["x-eda"] == {"schema": "2", "aliases": ["payment-made"], "encoding": "json", "upcasters": []}
    assert paid["properties"] == {"amount": {"type": "integer"}}
    assert run(tmp_path, "export", "orders").stdout == ended.stdout


def test_export_when_written_is_a_json_schema_with_a_definition_for_each_type(tmp_path: Path) -> None:
    nested = "    lines: list['Line'] = dataclasses.field(default_factory=list)\n@dataclass\nclass Line:\n    n: int\n"
    source = f"import dataclasses\n{orders(type_='int').rstrip()}\n{nested}".replace("order-paid", "order paid")
    document = json.loads((tmp_path / export(tmp_path, "orders", source)).read_text())
    jsonschema.Draft202012Validator.check_schema(document)
    wanted = {**document, "$ref": "#/$defs/order paid"}
    valid = jsonschema.Draft202012Validator(wanted).is_valid
    assert valid({"amount": 1, "lines": [{"n": 2}]})
    assert not valid({"amount": 1, "lines": [{"n": "2"}]})
    assert not valid({"lines": []})


@pytest.mark.parametrize("option", ["--stream", "--title", "--api-version"])
def test_export_when_an_option_of_asyncapi_is_given_for_the_other_format_is_refused(
    tmp_path: Path, option: str
) -> None:
    (tmp_path / "shop.py").write_text(orders())
    ended = run(tmp_path, "export", "shop", option, "x")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"{option} needs --format asyncapi" in ended.stderr


def test_export_when_in_a_package_and_as_asyncapi_writes_that(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "orders.py").write_text(orders())
    options = ["--format", "asyncapi", "--stream", "orders", "--title", "Shop", "--api-version", "3"]
    document = json.loads(run(tmp_path, "export", "shop.orders", *options).stdout)
    assert document["info"]["title"] == "Shop"
    assert document["channels"]["orders"]["address"] == "orders.{type}.{aggregate}"


@pytest.mark.parametrize(
    ("source", "arguments", "expected"),
    [
        ("", ["nothing"], "the module 'nothing' was not found: 'nothing' is not in "),
        ("", ["orders.inner"], "the module 'orders.inner' was not found"),
        ("", ["orders.py"], "'orders.py' is not the name of a module. A name is written as in `import shop.events`"),
        ("", ["./orders"], "'./orders' is not the name of a module"),
        (
            "import missing_one",
            ["orders"],
            "the module 'orders' can't be imported: ModuleNotFoundError: No module named",
        ),
        ("\n1 / 0", ["orders"], "can't be imported: ZeroDivisionError: division by zero"),
        ("\n1 / 0", ["orders"], "orders.py:2)"),
        ("def f(", ["orders"], "can't be imported: SyntaxError"),
        ("import sys; sys.exit(3)", ["orders"], "can't be imported: SystemExit: 3"),
        ("x = 1", ["orders", "json"], "no class is declared with eda.payload in orders, json, nor in what they import"),
        (orders(type_="complex"), ["orders"], "OrderPaid"),
        (orders(after="@eda.upcast('order-paid', '0', '1')\ndef up(data): return data"), ["orders"], "order-paid"),
        (orders(), ["orders", "-o", "no/such/file"], "no/such/file can't be written: No such file or directory"),
        (orders(), ["orders", "--format", "asyncapi", "--stream", "a.b"], "'a.b' can't be the name of a stream"),
    ],
)
def test_export_when_something_is_wrong_says_what_and_exits_with_2(
    tmp_path: Path, source: str, arguments: list[str], expected: str
) -> None:
    (tmp_path / "orders.py").write_text(source)
    ended = run(tmp_path, "export", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert expected in ended.stderr
    assert "Traceback" not in ended.stderr


def test_check_when_nothing_breaks_exits_with_0(tmp_path: Path) -> None:
    old = export(tmp_path, "old", orders())
    new = export(tmp_path, "new", orders(more="note: str = ''"), "--format", "asyncapi")
    ended = run(tmp_path, "check", old, new)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "compatible\n", "")


def test_check_when_the_id_is_new_says_whom_to_deploy_first(tmp_path: Path) -> None:
    old = export(tmp_path, "old", orders())
    step = "@eda.upcast('order-paid', '2', '3')\ndef up(data): return {'amount': str(data['amount'])}"
    new = export(tmp_path, "new", orders("3", "str", after=step))
    ended = run(tmp_path, "check", old, new)
    assert ended.returncode == 0
    assert ended.stdout == (
        "order-paid: the schema changed from '2' to '3', which old readers don't know. "
        "Deploy all readers before the first writer.\ncompatible\n"
    )


def test_check_when_something_breaks_exits_with_1_and_names_it(tmp_path: Path) -> None:
    old = export(tmp_path, "old", orders())
    new = export(tmp_path, "new", orders(type_="float", more="site: str"))
    ended = run(tmp_path, "check", old, new)
    assert ended.returncode == 1
    lines = ended.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["order-paid $.amount", "order-paid $.site", "not compatible"]
    assert "a new event may have number here, but an old reader accepts only integer. This breaks old" in lines[0]
    assert "Give the field a default" in lines[1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_when_it_cannot_be_written_exits_with_2(tmp_path: Path) -> None:
    export(tmp_path, "old", orders())
    for arguments in (
        ["export", "old"],
        ["check", "old.json", "old.json"],
        ["check", "--json", "old.json", "old.json"],
    ):
        with open("/dev/full", "wb") as full:
            command = [sys.executable, "-m", "eda.cli", "schema", *arguments]
            ended = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        assert ended.returncode == 2
        assert ended.stderr == f"Error: standard output can't be written: {os.strerror(28)}\n"


@pytest.mark.skipif(os.name == "nt", reason="needs a limit of file sizes")
def test_export_when_the_file_cannot_be_written_whole_keeps_the_old_one(tmp_path: Path) -> None:
    import resource

    export(tmp_path, "old", orders())
    before = (tmp_path / "old.json").read_text()
    command = [sys.executable, "-B", "-m", "eda.cli", "schema", "export", "old", "-o", "old.json"]
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )
    assert (ended.returncode, ended.stderr) == (2, f"Error: old.json can't be written: {os.strerror(27)}\n")
    assert (tmp_path / "old.json").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["old.json", "old.py"]


def test_check_when_the_terminal_lacks_a_character_shows_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(tmp_path, "old", orders(more="größe: int = 1"))
    export(tmp_path, "new", orders(more="größe: str = ''"))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    ended = run(tmp_path, "check", "old.json", "new.json")
    assert ended.returncode == 1
    assert "$.gr\\xf6\\xdfe" in ended.stdout


def test_export_when_a_default_is_no_json_leaves_it_out(tmp_path: Path) -> None:
    name = export(tmp_path, "old", orders(more="rate: float = float('nan'); note: str = '\\udc80'"))
    properties = json.loads((tmp_path / name).read_text(encoding="utf-8"))["$defs"]["order-paid"]["properties"]
    assert (properties["rate"], properties["note"]) == ({"type": "number"}, {"type": "string"})
    assert run(tmp_path, "check", name, name).stdout == "compatible\n"


def test_check_when_asked_for_json_prints_the_findings(tmp_path: Path) -> None:
    old = export(tmp_path, "old", orders())
    new = export(tmp_path, "new", orders(more="site: str"))
    ended = run(tmp_path, "check", old, new, "--json")
    report: dict[str, Any] = json.loads(ended.stdout)
    assert (ended.returncode, report["compatible"]) == (1, False)
    assert [(each["type"], each["path"], each["breaks"]) for each in report["findings"]] == [
        ("order-paid", "$.site", "new readers of stored events")
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "old.json can't be read: No such file or directory"),
        ("{", "old.json can't be read: it is not JSON"),
        ('{"openapi": "3.1.0"}', "old.json can't be read: it is not a file of `eda schema export`"),
        (
            '{"asyncapi": "3.0.0"}',
            "old.json can't be read: it is an AsyncAPI document, but not one of `eda schema export`",
        ),
    ],
)
def test_check_when_a_file_cannot_be_read_exits_with_2(tmp_path: Path, content: str | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "old.json").write_text(content)
    (tmp_path / "new.json").write_text('{"x-eda": {"format": "eda-schemas", "version": 1}, "$defs": {}}')
    ended = run(tmp_path, "check", "old.json", "new.json")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert expected in ended.stderr
