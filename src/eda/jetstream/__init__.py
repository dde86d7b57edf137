"""Requests to JetStream, and the checks of its answers.

This wing sends requests of the JSON API, maps streams, types and aggregates to subjects, administers streams, and
knows the settings of consumers and of the bucket of cursors. It offers `Api` (requests), `Streams` (`conn.streams`) and
`Answer` (the answer to a publish). It never publishes or handles a user's event.

Files, each after the files that it imports:

    bucket             the settings of the bucket of cursors, and the check of a bucket that exists
    labels             the description and metadata of the consumers and streams that eda creates
    pull_limits        the limits of pulls and consumers, from settings and refusals; durations in Go's form
    lowering           a stream's settings, lowered to the limits that a refusal names
    grace_period       how long a request is sent again although the refusal is permanent
    publish_answers    the answers to a publish: acknowledgement, flow message, refusal
    schemas            the types of the API's answers, by which each answer is checked
    subjects           stream, type and aggregate <> subject; filters
    api                requests of the JSON API; requests about consumers
    ask_all            a question to everybody who listens to a subject
    listing            the lists of all streams, and of all consumers of a stream
    domains            the JetStream domains that a connection reaches, also through leaf nodes
    consumer_settings  the settings of a shared consumer that harm its members, and their repair
    bucket_requests    requests about the bucket: create it, check it; its keys and revisions
    answer_inbox       an inbox for the answer to one message; answers from other streams or domains are ignored
    _direct_reads      the answers to direct gets: to which read each belongs, and the server's headers in it
    stored_message     a message as a stream has stored it, read from answers
    direct_get         reads of stored messages: pipelined direct gets, and reads from the leader
    stream_info        a stream as the server describes it; whether it takes events
    store_mark         the mark of streams that belong to event stores: which can have it, what it refuses
    pack_mark          the mark of streams that may have packs: whether packs can be published, why it never changes
    partial_purge      whether some events of a stream may be purged, and the others kept
    store_message      the publish of one message, with headers, in one attempt
    streams            `conn.streams`: the administration of streams
"""

__all__: list[str] = []
