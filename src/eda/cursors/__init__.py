"""Cursors: the kept positions of durable ordered subscriptions, each under one key of a bucket, with lease and holder.

It offers `Cursor`, through which a member takes, holds and gives up the cursor. It also checks positions against a
stream. It never reads or handles events.

Files, each after the files that it imports:

    position      a position in a stream, and whether the stream still has its event
    value         the value of a cursor as JSON, written and read
    standby       what a standby listens to: writes of the cursor, and questions about how many members stand by
    filter_check  compares a member's filter with the filter in the cursor, and says whether the member may take over
    entry         the entry of a cursor in the bucket: read, written, deleted
    liveness      how long a holder has been silent, by the standby's clock
    moving        moves the position of a cursor from outside
    held_cursor   the cursor while this member holds it: writes of the position, the lease, the fence
    takeover      one attempt to become the holder
    cursor        the cursor of one member: opened, taken, held, lost, given up
"""

__all__: list[str] = []
