"""Events on their way into a stream.

`publish` for one event, `publisher` for volume, `publish_batch` for all or nothing. It offers these three and the
streams that a connection publishes to. It never reads events.

Files, each after the files that it imports:

    _window            the publish window
    failures           a publisher's failures that are still to be told, and to whom
    lost_batch         a batch whose answer was lost: stored, not stored, or nobody can tell
    publisher_options  what a publisher is asked to be, checked
    waiters            waiting in turn: for room, for what was sent to be settled
    answer_checks      whose answers a publisher believes: stream and domain
    _stream_sender     event > frame in the buffer > place in the window, and back by the answer
    _pending           a publisher's events that are not settled: what is asked about them
    stream_publisher   `conn.publish`: the clock and the judgement over the window
    atomic_batch       `conn.publish_batch`: all or nothing
    stream_watch       what an open publisher learns of its connection and stream
    _publisher_core    volume: events > frames > window, one acknowledgement each or one for hundreds
    known_streams      the streams that a connection publishes to, looked up once
    pump_machine       when a publisher's events are written: its states, batches, probes, pauses
    pump               what leads to those steps: the clock, the server's answers, another connection
    lifecycle          a publisher's opening and closing, callbacks, counts
    publisher          `Publisher`: send, flush, back-pressure
"""

__all__: list[str] = []
