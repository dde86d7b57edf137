"""Requests that create and check the bucket, the subject of a subscription's key, and the rules of a conditional write.

Source: ADR-8 (key-value buckets).
"""

from __future__ import annotations

import asyncio
from time import monotonic

from eda.errors import ServerError
from eda.headers import EXPECTED_SEQUENCE
from eda.jetstream.api import REQUEST_TIMEOUT_S, Api
from eda.jetstream.bucket import BUCKET, BUCKET_STREAM, Bucket, fault_of, settings_of
from eda.jetstream.labels import labels
from eda.jetstream.lowering import lowered_stream
from eda.jetstream.schemas import Stream
from eda.server_codes import (
    FORBIDDEN,
    NO_PEERS,
    REPLICAS_NOT_SUPPORTED,
    STORE_FAILED,
    STREAM_CREATE_FAILED,
    STREAM_NAME_IN_USE,
    STREAM_NOT_FOUND,
)

__all__ = ["EXPECTED_REVISION", "bucket_fault", "create_bucket", "key_subject"]

# A write of a key names in this header the revision that it replaces. The server refuses it with one of
# `CONFLICTS` if the key has another revision by now, or if another write of the key is under way.
EXPECTED_REVISION = EXPECTED_SEQUENCE

# The server has no cluster, or the cluster has too few servers.
TOO_MANY_REPLICAS = frozenset({NO_PEERS, REPLICAS_NOT_SUPPORTED})
# A bucket of this name was just deleted, and the server is still removing its directory.
BEING_REMOVED = frozenset({STREAM_CREATE_FAILED, STORE_FAILED})


def key_subject(stream: str, name: str) -> str:
    """Return the subject, in the bucket's stream, of the key of the subscription `name` to `stream`."""
    return f"$KV.{BUCKET}.{stream}.{name}"


async def create_bucket(api: Api, bucket: Bucket) -> bool:
    """Create the bucket, with settings lowered to the server's limits. Return False if the bucket exists already.

    Raises ServerError, Timeout, Closed.
    """
    deadline = monotonic() + REQUEST_TIMEOUT_S
    config = settings_of(bucket) | labels("bucket", client=api.client, what="offsets of subscriptions")
    while True:
        try:
            await api.request(f"STREAM.CREATE.{BUCKET_STREAM}", config)
            return True
        except ServerError as error:
            if error.err_code == STREAM_NAME_IN_USE:
                return False
            changed = lowered_stream(config, error, max_bytes=bucket.max_bytes)
            if changed is None and error.err_code in TOO_MANY_REPLICAS:
                changed = config | {"num_replicas": bucket.least_replicas}
            if changed is not None and changed != config:
                config = changed
                continue
            is_being_removed = error.err_code in BEING_REMOVED and error.code == 500
            if not is_being_removed or monotonic() > deadline:
                raise
        await asyncio.sleep(0.05)


async def bucket_fault(api: Api, bucket: Bucket) -> str:
    """Return the text of `fault_of` for the bucket that exists.

    The text is empty if there is no fault, if there is no bucket, and if the server forbids the request. Raises
    ServerError, Timeout, Closed.
    """
    api.wire.may_be_forbidden.add(f"{api.prefix}.STREAM.INFO.{BUCKET_STREAM}")
    try:
        answer = await api.request(f"STREAM.INFO.{BUCKET_STREAM}", schema=Stream)
    except ServerError as error:
        if error.code == FORBIDDEN or error.err_code == STREAM_NOT_FOUND:
            return ""
        raise
    return fault_of(answer["config"], bucket)
