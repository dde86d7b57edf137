"""The position of an ordered subscription, kept in a key of the bucket.

The cursor is position, lease and fence in one key. It offers taking, holding and giving up a cursor, and checks of
positions. It never reads or handles events.

Files, each below those that import it:

    position      which event a position is, and whether the stream still has it
    standby       members that stand by say so when they are asked
    value         what is in the key of a cursor, and whether it is that
    filter_check  the filter that a cursor's position belongs to: who may take the key with another one
    entry         the key: read, written, watched, deleted
    liveness      how long a standby has seen no new revision
    held_cursor   the holder's time with it: group commit, lease, fence, lost answers
    cursor        the cursor of an ordered durable subscription: taking, losing, giving up
"""

__all__: list[str] = []
