"""The cursor of an outbox: no row is left out, and none that was taken is read again, whatever commits when."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from eda.projections.outbox_cursor import OutboxCursor, OutboxRow


def row(serial: int, *, is_ready: bool = True, horizon: int = 9) -> OutboxRow:
    return OutboxRow(serial, f"e{serial}", "s", "", is_ready, b"", str(horizon))


def test_advance_when_all_rows_are_ready_passes_them() -> None:
    cursor = OutboxCursor()
    cursor.advance([row(1), row(5)], ())
    assert (cursor.serial, cursor.horizon) == (5, "9")
    cursor.advance([], ())
    assert (cursor.serial, cursor.horizon) == (5, "9")
    cursor.advance([row(2, horizon=11), row(7, horizon=11)], ())
    assert (cursor.serial, cursor.horizon) == (7, "11")


def test_advance_when_a_row_is_not_ready_stops_before_it() -> None:
    cursor = OutboxCursor()
    cursor.advance([row(1), row(2), row(3, is_ready=False), row(4)], ())
    assert (cursor.serial, cursor.horizon) == (2, "9")
    cursor.advance([row(3, is_ready=False, horizon=10)], ())
    assert (cursor.serial, cursor.horizon) == (2, "10")


def test_advance_when_rows_below_it_may_be_left_begins_anew() -> None:
    for rows in ([row(3), row(4)], [row(3), row(4, is_ready=False), row(9)]):
        cursor = OutboxCursor()
        cursor.advance([row(1), row(6)], ())
        cursor.advance(rows, ())
        assert (cursor.serial, cursor.horizon) == (0, "0")


def test_advance_when_rows_above_it_are_taken_begins_anew() -> None:
    cursor = OutboxCursor()
    cursor.advance([row(3)], {1, 2, 4, 5})  # it was given back
    assert (cursor.serial, cursor.horizon) == (0, "0")
    cursor.advance([row(3), row(6)], {1, 2, 4, 5})
    assert (cursor.serial, cursor.horizon) == (6, "9")


class Database:
    """Transactions that take ids and serials, and end, in any order; and what a read sees of them."""

    def __init__(self) -> None:
        self.next_xid = 1
        self.next_serial = 1
        self.open: dict[int, list[tuple[int, int]]] = {}  # rows (serial, xid) by transaction
        self.visible: dict[int, int] = {}  # xid by serial

    def begin(self) -> None:
        self.open[self.next_xid] = []
        self.next_xid += 1

    def add(self, which: int) -> None:
        if self.open:
            xid = sorted(self.open)[which % len(self.open)]
            self.open[xid].append((self.next_serial, xid))
            self.next_serial += 1

    def end(self, which: int, *, commits: bool) -> None:
        if self.open:
            rows = self.open.pop(sorted(self.open)[which % len(self.open)])
            if commits:
                self.visible.update(rows)

    def read(self, n: int, cursor: OutboxCursor, taken: set[int]) -> list[OutboxRow]:
        horizon = min(self.open, default=self.next_xid)
        return [
            row(serial, is_ready=xid < horizon, horizon=horizon)
            for serial, xid in sorted(self.visible.items())
            if (serial > cursor.serial or xid >= int(cursor.horizon)) and (cursor.serial > 0 or serial not in taken)
        ][:n]


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["begin", "add", "add", "commit", "commit", "roll back", "read", "read", "give back"]),
              st.integers(0, 5)),
    max_size=80,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(ACTIONS, st.integers(1, 5))
def test_rows_whatever_happens_are_each_taken_once(actions: list[tuple[str, int]], n: int) -> None:
    database, cursor, taken = Database(), OutboxCursor(), set[int]()

    def read() -> bool:
        rows = database.read(n, cursor, taken)
        cursor.advance(rows, taken)
        ready = []
        for each in rows:
            if not each.is_ready:
                break
            ready.append(each.serial)
        assert not taken.intersection(ready)
        taken.update(ready)
        return bool(ready)

    for action, which in actions:
        if action == "begin":
            database.begin()
        elif action == "add":
            database.add(which)
        elif action in ("commit", "roll back"):
            database.end(which, commits=action == "commit")
        elif action == "read":
            read()
        elif taken:
            taken.discard(sorted(taken)[which % len(taken)])
            cursor.reset()
    while database.open:
        database.end(0, commits=True)
    while read():
        pass
    assert taken == set(database.visible)
