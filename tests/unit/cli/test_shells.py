"""What shells get for the options of every command: their scripts read it line by line."""

from __future__ import annotations

import pytest

from eda.cli import main
from eda.cli.shells import SHELLS
from support.cli.tree import COMMANDS


@pytest.mark.parametrize(("shell", "n_lines"), [("bash", 1), ("zsh", 3), ("fish", 1)])
def test_options_when_a_shell_asks_for_them_are_as_many_lines_as_its_script_reads(shell: str, n_lines: int) -> None:
    asked = SHELLS[shell](main, {}, "eda", "_EDA_COMPLETE")  # type: ignore[arg-type]
    for path in COMMANDS:
        items = asked.get_completions(list(path), "--")
        assert "--help" in [item.value for item in items]
        for item in items:
            assert len(asked.format_completion(item).split("\n")) == n_lines, f"{path} {item.value}"
