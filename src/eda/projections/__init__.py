"""Read models and the outbox: events applied to tables of the user's database, and rows of it published as events.

This wing offers `Projection` (`conn.projection`), `View` (`conn.view`), `Relay` (`conn.relay`), and the
databases and the `Outbox` of `eda.sql`. The position of a projection changes in the same transaction as the rows.

Files, each after the files that it imports:

    sink               what a projection asks of the place where its rows are: the protocol `Sink`
"""

__all__: list[str] = []
