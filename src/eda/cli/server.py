"""`eda server`: a NATS server with JetStream, for tests and demos."""

from __future__ import annotations

import click

from eda.cli.options import lines_option

__all__ = ["server"]


@click.command()
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Where the server listens.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=4222,
    show_default=True,
    help="The port that it listens on; 0: a port that is free.",
)
@click.option(
    "--dir",
    "directory",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="The directory for its data, which is kept.  [default: a temporary directory, removed at the end]",
)
@click.option(
    "--token",
    metavar="TEXT",
    envvar="EDA_TOKEN",
    help="What clients must know to connect.  [default: $EDA_TOKEN, else nothing on a loopback address, and a random "
    "token on any other]",
)
@lines_option
def server(host: str, port: int, directory: str | None, token: str | None, as_json: bool) -> None:
    """Run a NATS server with JetStream until Ctrl-C or SIGTERM.

    It is for development, tests and demos on one machine. It prints its URL in the first line, when it accepts
    connections. Without options it listens where all commands look for a server by default.

    The JSON object has the fields url, host, port, pid and version (of the nats-server), and dir (null: a temporary
    directory).
    """
    import eda
    from eda.cli.ending import print_to_end, run_to_end
    from eda.cli.failure import Failure
    from eda.cli.output import print_json, safe

    def show(running: eda.EmbeddedServer) -> None:
        version = running.version()
        if as_json:
            fields = {"url": running.url, "host": host, "port": running.port, "pid": running.pid, "version": version}
            print_json(fields | {"dir": directory})
        else:
            click.echo(running.url)
            data = f"data in {safe(directory)}" if directory else "data in a temporary directory, removed at the end"
            click.echo(f"nats-server {version}, {data}\nCtrl-C ends it", err=True)

    async def run() -> None:
        secret = token if token is not None else "" if _is_loopback(host) else None
        async with eda.EmbeddedServer(directory, host=host, port=port, token=secret) as running:
            print_to_end(lambda: show(running), Failure)
            await running.wait()

    run_to_end(run(), (eda.EdaError, OSError), Failure)


def _is_loopback(host: str) -> bool:
    """Return whether only programs of this machine reach the host."""
    import ipaddress

    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
