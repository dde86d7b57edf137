"""The connection: nats-py's client, with our parser in front of it.

It connects, logs in and reconnects (nats-py), reads frames and hands them to sinks in C, and collects what is written
into one write per turn of the loop. It offers `Wire`, the frame parser and the outbound buffer. It knows nothing of
JetStream, streams or events.

Files, each below those that import it:

    _frame       inbound bytes > frames; subject tokens; reply subjects
    _outbound    outgoing bytes: one write per turn, chunks kept to be sent again
    _waits       waits that end within the read that ends them
    addresses    `addr` and environment > server URLs and credentials
    loops        the event loop that a connection belongs to
    server_info  a server's INFO, checked
    _mailbox     messages > a Python callback, for answers that somebody waits for
    client       nats-py's client, mended: closing in any state, reconnecting after any error
    tap          the protocol between the transport and nats-py's stream reader
    wire         that client with our parser in front of it
    listening    hearing of what happens to a connection
"""

__all__: list[str] = []
