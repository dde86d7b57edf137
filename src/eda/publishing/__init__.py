"""Publishing: events on their way into a stream.

The wing has three ways to publish: `conn.publish` for one event, `conn.publisher` for many events, and
`conn.publish_batch` for events that are stored all or not at all. Subscriptions use its `KnownStreams`. It never
delivers events.

Files, each after the files that it imports:

    _window            the publish window: a slot for each event that waits for its acknowledgement
    failures           the failures of a publisher's events, kept until a caller of `flush` learns of them
    lifecycle          opening and closing, once each, however many callers ask
    expectations       what the server must find for a message to be stored, and whether it does
    lost_batch         finds out whether an atomic batch is stored if the server's answer was lost
    pack               `Pack`: how a publisher puts many events into one message
    publisher_options  the options of `conn.publisher`, checked
    waiters            senders that wait for room, and flushes that wait until events are settled
    answer_checks      checks that an answer comes from the publisher's stream, in its domain
    _stream_sender     the work of `conn.publish` for each event; also writes the frames of all publishers
    _message_sender    publishes messages whose subject, headers and envelope are ready
    _pending           the unsettled events of a publisher, and queries about them
    batch_counts       what became of the events of atomic batches
    single_stats       the counts of `conn.publish` for one stream
    stream_publisher   `conn.publish` for one stream: back-pressure, time-outs, sending again
    atomic_batch       `conn.publish_batch`
    stream_looks       looks at the streams of a connection again every 30 s, because others may change them
    stream_watch       watches a publisher's connection and its stream's settings
    _publisher_core    the work of a publisher for each event: window, writing, acknowledgements
    _pack_frame        the message of a publisher's pack: its message id, headers, subject and frame
    _packing_core      the core of a publisher with packs: puts many events into each message
    _sending           `send`: passes an event to the core, or waits
    _columns           the rows of a table: makes an event of each row, and passes it to the core
    column_sender      `send_columns`: sends the rows of a table as events
    linger             closes a publisher's open pack in time
    known_streams      the streams that a connection publishes to, each looked up once
    outcomes           reports the outcomes of a publisher's events to callbacks, senders and `flush`
    publisher_stats    the counts of a publisher
    pump_machine       the state machine of a publisher: when its events are written
    pump_answers       handles the server's answers that the core does not handle itself
    pump_clock         a publisher's timer: fails overdue events, ends batches that get no more events
    pump               joins state machine, answers, clock and stream watch to one object
    cores              makes the core of a publisher, with packs or without
    publisher          `Publisher`: opening and closing, send, flush, back-pressure
    condition          what a health check says about a publisher
"""

__all__: list[str] = []
