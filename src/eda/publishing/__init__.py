"""Events on their way into a stream.

`conn.publish` for one event, `conn.publisher` for volume, `conn.publish_batch` for all or nothing. The wing offers
these three, and to subscriptions what is known of streams. It never reads events.

Files, each after the files that it imports:

    _window            the publish window: a slot for each event that waits for its acknowledgement
    failures           the failed events of a publisher that no caller has been told of yet
    lifecycle          opening and closing, once each, however many callers ask
    lost_batch         whether an atomic batch whose answer was lost is stored
    publisher_options  the options of `conn.publisher`, checked
    waiters            senders that wait for room, flushes that wait for outcomes
    answer_checks      which answers a publisher believes: those of its stream, in its domain
    _stream_sender     `conn.publish` per event: event to frame to slot, and back; also frames for all publishers
    _pending           the events of a publisher that are not settled, and questions about them
    stream_publisher   `conn.publish`: back-pressure, time-outs, sending again, for one stream
    atomic_batch       `conn.publish_batch`
    stream_watch       watches, for a publisher, its connection and its stream's settings
    _publisher_core    a publisher per event: event to frame to window, and the acknowledgements
    known_streams      the streams that a connection publishes to, each looked up once
    outcomes           who is told what became of a publisher's events
    pump_machine       the state machine of a publisher: when its events are written
    pump_answers       what the server's answers mean for state and events
    pump_clock         a publisher's time-outs, and the end of batches that nobody adds to
    pump               puts these parts together
    publisher          `Publisher`: opening and closing, send, flush, back-pressure
"""

__all__: list[str] = []
