"""Completes the names of streams, subscriptions and contexts on a command line that is being typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

__all__ = ["complete_names"]

LIMIT_S = 0.3  # for the connection, and again for the answer of the server

_STREAMS = frozenset({"stream", "streams", "source", "target"})
# What an argument `name` is the name of, by the group of its command.
_NAMED_BY = {"streams": "stream", "subs": "subscription", "dead": "subscription", "context": "context"}
_SERVER = frozenset({"addr", "cluster", "user", "password", "token", "credentials", "nkey", "tls_ca", "tls_cert"})
_SERVER |= {"tls_key", "context"}


def complete_names(command: click.Command, group: str = "") -> None:
    """Let the parameters of a command, and of the commands in a group, complete names that the server knows.

    `group`: the name of the group that the command belongs to.
    """
    if isinstance(command, click.Group):
        for each in command.commands.values():
            complete_names(each, command.name or "")
    for parameter in command.params:
        kind = _kind(group, parameter.name or "", is_option=isinstance(parameter, click.Option))
        if kind and parameter.type == click.STRING:
            parameter.type = _Name(kind)


def _kind(group: str, name: str, *, is_option: bool) -> str:
    """Return what a parameter is the name of: "stream", "subscription", "context", or "" for anything else."""
    if is_option:
        return "context" if name == "context" else ""
    if name == "name":
        return _NAMED_BY.get(group, "")
    return "stream" if name in _STREAMS else ""


class _Name(click.ParamType):  # type: ignore[type-arg]  # generic in new versions only
    """A name of something that exists."""

    name = "text"

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin with `incomplete`; none if the server does not tell them in time."""
        given = ctx.params.get(param.name or "") if param.nargs != 1 else None
        known = [name for name in _names(self._kind, ctx.params) if name.startswith(incomplete)]
        # Shells read lines, and some of them show what is no text as it is.
        return [CompletionItem(name) for name in known if name.isprintable() and name not in (given or ())]


def _names(kind: str, parameters: Mapping[str, Any]) -> list[str]:
    """Return the names of a kind; [] if these can't be found out. Nothing is printed, because a user is typing."""
    if kind == "context":
        from eda.cli.contexts import context_names

        return context_names()
    import asyncio
    import logging
    from contextlib import suppress

    import eda

    before = logging.root.manager.disable
    logging.disable()
    loop = asyncio.new_event_loop()  # asyncio.run would wait for a name server that does not answer
    try:
        with suppress(eda.EdaError, click.ClickException, OSError, TimeoutError):
            return loop.run_until_complete(_ask(kind, parameters))
    finally:
        loop.close()
        logging.disable(before)
    return []


async def _ask(kind: str, parameters: Mapping[str, Any]) -> list[str]:
    import asyncio

    from eda.cli.session import connection

    server = {name: value for name, value in parameters.items() if name in _SERVER}
    async with connection(server | {"connect_timeout_s": LIMIT_S}, client="eda-completion", logger=None) as conn:
        async with asyncio.timeout(LIMIT_S):
            if kind == "stream":
                return [info.name for info in await conn.streams.list()]
            stream = parameters.get("stream")
            if not isinstance(stream, str):
                return []
            return sorted({info.name for info in await conn.subscriptions(stream)})
