"""Start the shop: `python examples/shop`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import uvicorn

from web import make_app


def main() -> None:
    """Serve HTTP until Ctrl-C or SIGTERM. Requests that are under way then get their answers."""
    parser = argparse.ArgumentParser(prog="python examples/shop", description="A shop with an event store.")
    parser.add_argument("--addr", help="your NATS server  [default: an embedded nats-server]")
    parser.add_argument("--data", type=Path, default=Path("shop-data"), help="where the data is kept  [%(default)s]")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    data = options.data.resolve()
    data.mkdir(parents=True, exist_ok=True)
    addr = options.addr or f"embedded://{(data / 'events').as_posix()}"
    database = os.environ.get("SHOP_DATABASE") or f"sqlite:///{data / 'read.db'}"
    # uvicorn stops on SIGTERM: it answers the requests under way, then it leaves the application's `async with`.
    uvicorn.run(make_app(addr, database), host=options.host, port=options.port, access_log=False)


if __name__ == "__main__":
    main()
