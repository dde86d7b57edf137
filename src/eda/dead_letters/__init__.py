"""Dead letters: events that no handler could handle, stored in a stream of their own.

The wing stores dead letters, reads them, and publishes their events again. It never decides whether an event becomes a
dead letter: `handling` does.

Files, each after the files that it imports:

    letter            a dead letter in its stream: how it is read; headers and subjects for storing and for replaying
    omitted           the payload of a dead letter that is stored without it, because the letter would be too large
    letter_stream     the dead-letter stream: reads its messages in order, and removes single ones
    dead_letter       `DeadLetter`: a dead letter as users see it
    listing           `conn.dead_letters` and `conn.drop_dead`: reads the dead letters of a stream, and removes them
    replayable        what a replay publishes for a dead letter
    replay            `conn.replay_dead`: publishes the events of dead letters again
    suitable_streams  which streams can keep dead letters, and how large a letter may be there
    store             stores dead letters, with headers that say what has happened
"""

__all__: list[str] = []
