"""Read models and the outbox: events applied to tables of the user's database, and rows of it published as events.

This wing offers `Projection` (`conn.projection`), `View` (`conn.view`), `Relay` (`conn.relay`), and the
databases and the `Outbox` of `eda.sql`. The position of a projection changes in the same transaction as the rows.

Files, each after the files that it imports:

    sink               what a projection asks of the place where its rows are: the protocol `Sink`
    sql_steps          the steps of a transaction, what drives them, and the interface `Database`
    tables             the tables `eda_positions` and `eda_views`, and the statements about them
    sql_sink           `SqlSink`: the protocol `Sink` over a `Database`, written once for all databases
    sqlstates          what PostgreSQL's error codes say about a transaction
    database_threads   a thread for a plain connection
    sqlite             `eda.sql.SQLite`
    connection_pool    a bounded pool of connections to PostgreSQL, and what its databases have in common
    sqlalchemy_sink    `eda.sql.SQLAlchemy`
    psycopg_driver     connections of psycopg: plain ones in threads, and asynchronous ones
    psycopg_sink       `eda.sql.Psycopg`
    asyncpg_sink       `eda.sql.Asyncpg`
    sink_of_url        `eda.sql.from_url`: the sink for a database's address
    stats              `ProjectionStats`: how far a projection is, and how far it lags behind
    waiting            which event a caller of `wait_for` waits for; commits resolve the callers
    outage_log         log lines about a database that does not work for a while
    ownership          which member applies a stream: claims, signs of life, standbys, takeovers
    stream_check       whether the stream is the one that was applied, and has lost nothing
    passing_over       how far a position may move over messages that the filter leaves out
    progress           how far versions are, read from their rows and streams; the bound of `promote`
    options            the arguments of `conn.projection`, checked
    lane_keys          which lane an event belongs to, by its key
    router_apply       a router as `apply`
    apply_function     the user's function, checked
    sink_users         opens and closes sinks that several of a process share
    side               what projections, views and relays have in common: how they close, and whose functions run
    view               `View`: waits and reads positions in another process
    chunks             events that are applied in one transaction, and how they are split when they fail
    lane_host          what the lanes of a stream share
    moving             the row of one lane and its transactions: their time, and lost answers
    applying           the events of one lane: retries, halving, dead letters
    lane               one lane of a stream: the events that wait for the database
    reading            reads a stream while this member owns its rows, and splits the events into lanes
    stream_runner      one stream of a projection: claims, reads, stands by
    projection         `Projection`
    assembly           puts projections and views together
    outbox_table       the tables of an outbox, and the statements about them
    outbox_cursor      which rows of an outbox need not be looked at again
    outbox_rows        the rows of an outbox as its relay reads and deletes them
    outbox_writing     adds rows through the connection of the user's transaction
    sqlite_signals     SQLite: the lock of the active relay, and what wakes it
    psycopg_signals    psycopg: the same
    asyncpg_signals    asyncpg: the same
    sqlalchemy_signals  SQLAlchemy: the same, with the driver's own connection
    relay_signals      the lock of the active relay and what wakes it, for each kind of database
    outbox             `Outbox`: adds events within the user's transaction
    refused_rows       the rows that a stream has refused, and what they block
    relay_host         what the streams of one relay share
    relay_chunk        rows that are published together, and what has become of them
    relay_recovery     which events of an outbox a stream has stored already
    relay_stream       the rows for one stream: published in order, deleted when acknowledged
    relay              `Relay`: reads the rows and gives them to their streams
"""

__all__: list[str] = []
