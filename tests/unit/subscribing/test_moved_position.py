"""eda.subscribing.moved_position with a server that answers late, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

import eda
from eda.subscribing.moved_position import MAX_TRIES, delete_exactly

OLD, RESTORED, NEW = "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000400Z", "2026-01-01T00:00:05Z"


class Api:
    """Deletes a consumer, but the answers are lost. `after`: when the consumer was made that each deletion leaves."""

    def __init__(self, *after: str | None) -> None:
        self.after = list(after)
        self.created: str | None = OLD
        self.n_deleted = 0

    async def delete_consumer(self, stream: str, name: str, *, once: bool) -> bool:
        assert once, "sent again by itself, the request would delete the next consumer"
        self.n_deleted += 1
        self.created = self.after.pop(0)
        raise eda.Timeout("delete", 10)

    async def consumer_info(self, stream: str, name: str) -> dict[str, Any] | None:
        return {"created": self.created} if self.created else None


@pytest.mark.parametrize(
    ("after", "n_deleted"), [([None], 1), ([NEW], 1), ([OLD, NEW], 2), ([RESTORED, None], 2)], ids=str
)
async def test_delete_when_the_answer_is_lost_leaves_the_next_consumer(after: list[Any], n_deleted: int) -> None:
    api: Any = Api(*after)
    await delete_exactly(api, "orders", "billing", {"created": OLD})
    assert (api.n_deleted, api.created) == (n_deleted, after[-1])


async def test_delete_when_it_is_never_done_ends() -> None:
    api: Any = Api(*[OLD] * MAX_TRIES)
    with pytest.raises(eda.Timeout, match="deleting the consumer billing of stream orders"):
        await delete_exactly(api, "orders", "billing", {"created": OLD})
