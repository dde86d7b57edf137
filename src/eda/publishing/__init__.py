"""Events on their way into a stream.

`publish` for one event, `publisher` for volume, `publish_batch` for all or nothing. It offers these three and the
streams that a connection publishes to. It never reads events.

Files, each below those that import it:

    _acks              the publish window
    failures           a publisher's failures that are still to be told, and to whom
    lost_batch         a batch whose answer was lost: stored, not stored, or nobody can tell
    publisher_options  what a publisher is asked to be, checked
    turns              waiting in turn: for room, for what was sent to be settled
    verdicts           whose answers a publisher believes: stream and domain
    _send              event > frame in the buffer > place in the window, and back by the answer
    _pending           a publisher's events that are not settled: what is asked about them
    publish            `conn.publish`: the clock and the judgement over the window
    publish_batch      `conn.publish_batch`: all or nothing
    renewal            what an open publisher learns of its connection and stream
    _publish           volume: events > frames > window, one acknowledgement each or one for hundreds
    known_streams      the streams that a connection publishes to, looked up once
    steps              when a publisher's events are written: its states, batches, probes, pauses
    pump               what leads to those steps: the clock, the server's answers, another connection
    publisher_life     a publisher's opening and closing, callbacks, counts
    publisher          `Publisher`: send, flush, back-pressure
"""

__all__: list[str] = []
