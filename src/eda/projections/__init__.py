"""Read models and the outbox: events applied to tables of the user's database, and rows of it published as events.

This wing offers `Projection` (`conn.projection`), `View` (`conn.view`), `Relay` (`conn.relay`), and the
databases and the `Outbox` of `eda.sql`. The position of a projection changes in the same transaction as the rows.

Files, each after the files that it imports:

    sink               what a projection asks of the place where its rows are: the protocol `Sink`
    sql_steps          the steps of a transaction, what drives them, and the interface `Database`
    tables             the tables `eda_positions` and `eda_views`, and the statements about them
    sql_sink           `SqlSink`: the protocol `Sink` over a `Database`, written once for all databases
    database_threads   a thread for a plain connection
    sqlite             `eda.sql.SQLite`
"""

__all__: list[str] = []
