"""A private nats-server, for tests, demos and programs on a single machine.

The wing offers `EmbeddedServer`. It never connects to the server that it starts.

Files, each after the files that it imports:

    caretaker  removes a server's temporary directory if the process that started the server was killed
    config     writes the settings in nats-server's language, and finds the secrets in them
    server     starts, stops and kills the nats-server
"""

__all__: list[str] = []
