"""What will bite: findings about a server, an account, streams and subscriptions. `conn.diagnose` and `eda doctor`.

The wing only reads. It changes nothing on the server, and creates no consumer.

Files, each after the files that it imports:

    finding              one finding, and the texts that several checks need
    facts                what the server says about itself, the account and the streams; the clocks compared
    server_checks        version, features, limits, encryption, clocks
    account_checks       the limits of the account, and how much of them is used
    durability_checks    where a stream keeps its events, and how many copies there are
    stream_checks        settings of a stream that programs don't expect
    limit_checks         limits of a stream that drop or refuse events
    subject_checks       the subjects of a stream, and other streams that listen to them
    subscription_checks  subscriptions: lag, members, settings that others have changed; dead letters
    diagnosis            reads the facts and runs all checks
"""

__all__: list[str] = []
