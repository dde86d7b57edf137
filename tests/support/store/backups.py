"""Backups of a stream, as `nats stream backup` and `nats stream restore` make and restore them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from helpers import Admin

__all__ = ["Backup", "backup", "restore"]


@dataclass(frozen=True)
class Backup:
    """A stream's configuration and state, and the server's archive of its messages."""

    config: dict[str, Any]
    state: dict[str, Any]
    chunks: list[bytes]


async def backup(admin: Admin, stream: str) -> Backup:
    """Have the server make a backup of the stream."""
    chunks: list[bytes] = []
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def take(message: Any) -> None:
        if message.data:
            chunks.append(message.data)
            if message.reply:
                await message.respond(b"")
        elif not done.done():
            done.set_result(None)

    inbox = admin.client.new_inbox()
    subscription = await admin.client.subscribe(inbox, cb=take)
    await admin.flush()
    answer = await admin.api(f"STREAM.SNAPSHOT.{stream}", {"deliver_subject": inbox, "no_consumers": True})
    await asyncio.wait_for(done, 10)
    await subscription.unsubscribe()
    return Backup(answer["config"], answer["state"], chunks)


async def restore(admin: Admin, saved: Backup) -> None:
    """Have the server make the stream of a backup, which must not exist. The stream is as old as the one of before."""
    body = {"config": saved.config, "state": saved.state}
    answer = await admin.api(f"STREAM.RESTORE.{saved.config['name']}", body)
    subject = answer["deliver_subject"]
    for chunk in saved.chunks:
        reply = await admin.client.request(subject, chunk, timeout=5)
        assert not reply.data, reply.data
    end = json.loads((await admin.client.request(subject, b"", timeout=10)).data)
    assert "error" not in end, end
