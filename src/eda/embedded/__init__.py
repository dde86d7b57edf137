"""The private nats-server for tests, demos and single machines.

It offers `EmbeddedServer`. It never connects to the server that it starts.

Files, each below those that import it:

    caretaker  removes an embedded server's directory when its owner was killed
    config     its settings in nats-server's language, and what in them is secret
    server     the embedded nats-server
"""

__all__: list[str] = []
