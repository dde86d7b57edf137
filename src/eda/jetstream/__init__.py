"""What JetStream is asked, and what it answers.

Requests of the JSON API, subjects, streams, stored messages, the bucket of key-values. It offers `Api`, `Streams` and
the checks of answers. It never handles or publishes a user's events.

Files, each after the files that it imports:

    bucket             the bucket of cursors: its settings, and what is wrong with those of others
    labels             what eda writes on the consumers and streams that it makes: description, metadata
    pull_limits        the limits of consumers and of pulls: read from settings, learnt from refusals
    lowering           a stream's settings, adapted to what a server or account refuses
    grace_period       for how long a final refusal is not believed
    publish_answers    what the server answers to a publish
    schemas            what JetStream's answers must look like
    subjects           stream, type, aggregate <> subject; filters
    api                JetStream's JSON API; consumers
    consumer_settings  what a consumer's settings take away from its members, and what they should be
    bucket_requests    the bucket: which key is whose, create it, check it; the revision that a write replaces
    answer_inbox       the answer to one published message, from the stream and domain that are meant
    store_message      one message into a stream, one acknowledgement, one attempt
    streams            `conn.streams`
"""

__all__: list[str] = []
