"""A private nats-server, for tests, demos and programs on a single machine.

The wing offers `EmbeddedServer`. It never connects to the server that it starts.

Files, each after the files that it imports:

    address     checks where the server is to listen, and knows how clients reach it
    caretaker   removes a server's temporary directory if the process that started the server was killed
    config      writes the settings in nats-server's language, and finds the secrets in them
    executable  finds the nats-server to run, and its version
    server      starts, stops and kills the nats-server
"""

__all__: list[str] = []
