"""Dead letters: events that no handler could handle, stored in a stream of their own.

It offers to store dead letters, to read them, and to publish their events again. It never decides whether an event
becomes a dead letter: `handling` does.

Files, each after the files that it imports:

    letter            a dead letter in its stream: how it is read, and its headers and subject
    replay            `conn.replay_dead`: the events of dead letters are published again
    suitable_streams  which streams can keep dead letters, and how large a letter may be there
    store             dead letters are stored
"""

__all__: list[str] = []
