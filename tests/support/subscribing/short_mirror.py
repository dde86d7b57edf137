"""A mirror that answers direct gets of its stream, and has only some of the stream's messages."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from helpers import Admin, until

__all__ = ["short_mirror"]


@asynccontextmanager
async def short_mirror(admin: Admin, stream: str, type: str) -> AsyncIterator[None]:
    """Let a mirror answer direct gets as if the stream had only the events of this type. It must have one already.

    A replica that is behind answers so too, but cannot be held back. Each question goes to the stream or to the mirror.
    """
    name = f"{stream}-mirror"
    mirror = {"name": stream, "filter_subject": f"{stream}.{type}.*"}
    settings = {"storage": "memory", "mirror": mirror, "mirror_direct": True, "allow_direct": True}
    await admin.api(f"STREAM.CREATE.{name}", {"name": name, **settings})
    question = json.dumps({"seq": 1, "next_by_subj": ">"}).encode()

    async def answers() -> bool:
        answer = await admin.client.request(f"$JS.API.DIRECT.GET.{stream}", question, timeout=5)
        return (answer.headers or {}).get("Nats-Stream") == name

    try:
        await until(answers, 20)
        yield
    finally:
        await admin.js.delete_stream(name)
