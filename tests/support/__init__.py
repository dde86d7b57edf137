"""Helpers for the tests of one wing, each in a folder of the wing's name.

    reference                 the envelope as the official protobuf package has it; strategies for random events
    log_calls                 the log calls in the sources: texts, levels and fields
    log_table                 the table in docs/logging.md, and what is wrong with records according to it
    packs                     packs as another program writes them, and their publishing without eda
    transport/faulty_proxy    a TCP proxy that misbehaves on demand
    transport/fake_server     a NATS server that says what a test tells it to
    transport/wires           a wire to a server, without the rest of a connection
    transport/nats_jwt        nkeys and JWTs, as `nsc` makes them
    transport/certificates    certificates of a test's own authority
    typed/declarations        payload classes, upcasters and encodings of one test, forgotten after it
    schemas/protobuf_files    protobuf message classes, made without protoc
    embedded/cluster          three nats-servers in a cluster
    embedded/domains          a hub and a leaf node with a JetStream domain each
    middleware/hooks          middleware that encodes and decodes events, runs a function, or notes what it sees
    publishing/publisher_core drives `PublisherCore` without a server or an event loop
    publishing/short_sender   a sender whose core takes events, without the rest of a publisher
    publishing/packs          what a stream with packs holds, read without eda
    publishing/sent           events that tell their order, and what became of each
    publishing/process        a publisher in a process of its own
    cursors/member            a member of a cursor that notes what its cursor tells it
    cursors/process           the same in a process of its own
    dead_letters/letters      dead letters as they are in their stream
    handling/dispatching      a dispatcher between a parser that is fed by hand and an outbound whose writes are kept
    projections/memory_sink   a sink in memory, whose methods may fail
    projections/lists         a read model in SQLite that only lists its events
    projections/read_model    a table in SQLite, a function that fills it, and what it holds
    projections/packed        a packed stream of packs that are made by hand, and where their events are
    store/forgetter           forgets an aggregate in a process of its own, which dies at a step
    store/appends             appends by `Appending` alone, and what a stream holds
    store/snapshotting        snapshots of a stream that a test writes to by itself
    store/backups             backups of a stream, made and restored by the server
    store/versions            marks for tests: on each server that can hold an event store, on each that can't
    store/accounts            aggregates whose events say which command decided on them, and on what
    store/process             executes commands in processes of their own that are killed or frozen
    store/members             starts, kills and ends such processes
    store/attempts            their journal: what each asked of the store, and what the store said
    store/contents            all that a stream of an event store holds, read and decoded without eda
    store/load                members under load, and what must hold in the end
    store/evidence            the contents and the journal, compared
    projections/sinks         the sinks that one suite runs over, and how their drivers are used
    projections/postgres      a private PostgreSQL server that tests may kill, freeze and start again
    projections/tables        an append-only table by every driver: made, read, and written in a projection
    projections/process       publishes or projects in processes of their own that are killed or frozen
    projections/members       starts, kills and ends such processes
    projections/relaying      relays an outbox in processes of their own that are killed or frozen
    projections/outbox_load   fills an outbox, starts and kills such processes, and proves what the stream holds
    projections/outboxes      transactions that leave events in an outbox, in every kind of database
    projections/evidence      the streams' contents and the table, compared
    projections/commit_proxy  a TCP proxy that takes away the answers of commits
    subscribing/process       a member of a subscription in a process of its own
    subscribing/machine       a server that loses power, and what it had not yet written to disk
    subscribing/mover         moves a position in a process of its own, which dies at a step
    subscribing/short_mirror  a mirror that answers direct gets, and lacks messages
    subscribing/kept          a kept subscription whose position is moved, and what its members get
    subscribing/members       starts, freezes and kills such members, and reads their journal
    telemetry/spans           the spans that a program makes, kept in memory by the OpenTelemetry SDK
    cli/nursery               a process that has imported what commands need, and forks them
    cli/commands              the `eda` command as a process
    cli/terminal              the same in a terminal, whose screen a test reads
    cli/tree                  all commands, and arguments with which each can be called
    diagnosis/settings        streams and consumers as other tools make them, and what is found about them
    cli/pipes                 the `eda` command with a standard input, or in the background
    cli/dot                   graphs in DOT, as a parser of DOT reads them
    faults/nursery            a process that imports eda once, and forks the members of fault tests
    faults/scene              publishers and subscriptions of every kind under load
    faults/patience           how long eda waits for an answer before it asks again
    faults/evidence           the stream's contents and journals, compared without eda

What tests of several wings need is in `tests` itself: `helpers`, `leaks`, `processes`, `servers`.
"""
