"""Dead letters: events that no handler could handle, stored in a stream of their own.

It offers storing them, reading them and publishing them again. It never decides whether an event is dead.

Files, each below those that import it:

    letter  a dead letter as it lies in its stream
    replay  `conn.replay_dead`
    store   storing dead letters, and which streams can keep them
"""

__all__: list[str] = []
