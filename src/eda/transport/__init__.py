"""The connection to the servers: nats-py's client, with eda's own parser and write buffer.

nats-py connects, logs in and reconnects. This wing reads the incoming bytes, hands the frames of eda's subscriptions to
sinks in C, and collects outgoing frames into one write per turn of the event loop. It offers `Wire` (one connection),
`Parser` and `Sink` (frames in), `Outbound` (frames out), and futures that complete within a read. It knows nothing of
JetStream, streams or events.

Files, each after the files that it imports:

    _frame          the NATS protocol: incoming bytes > frames; subject tokens; reply subjects of deliveries
    _outbound       outgoing bytes: one write per turn, and chunks that are kept until their events are acknowledged
    _waits          futures that resume their task within the read that completes them
    _loop_check     whether the caller runs in the event loop of a connection, without a system call
    _callback_sink  a sink that calls a Python function with each message
    addresses       the `addr` argument or the environment > server URLs and credentials
    loops           the check that a connection is used in the event loop that opened it
    server_info     the checks of a server's INFO
    nats_client     nats-py's client, with fixes for reconnecting, closing and log-in
    interceptor     the asyncio protocol that takes eda's frames out of what nats-py reads
    tolerated       subjects whose refusal is not logged as an error
    wire            `Wire`: the client of `nats_client`, with the interceptor, parser and outbound buffer in place
    listener        callbacks for the loss, return and end of a connection, added and removed together
"""

__all__: list[str] = []
