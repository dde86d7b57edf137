"""The names of attributes and spans, as of the OpenTelemetry semantic conventions for messaging, version 1.44.

The names are written out here, because the package of semantic conventions changes those of messaging in every release.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ATTEMPT",
    "BATCH_COUNT",
    "CLIENT_ID",
    "CONVERSATION_ID",
    "DEAD_LETTER",
    "DELAY_S",
    "DESTINATION",
    "ERROR_TYPE",
    "EVENT_TYPE",
    "GIVEN_BACK",
    "GROUP",
    "INTO",
    "LINKS_LEFT_OUT",
    "MAX_LINKS",
    "MESSAGE_ID",
    "N_FAILED",
    "OPERATION",
    "OPERATION_TYPE",
    "PLACE",
    "REASON",
    "RETRY",
    "SCHEMA_URL",
    "SERVER_ADDRESS",
    "SERVER_PORT",
    "SYSTEM",
    "operation",
]

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

SYSTEM = "messaging.system"
OPERATION = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
GROUP = "messaging.consumer.group.name"
CLIENT_ID = "messaging.client.id"
MESSAGE_ID = "messaging.message.id"
CONVERSATION_ID = "messaging.message.conversation_id"
BATCH_COUNT = "messaging.batch.message_count"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"

# What the conventions have no names for.
EVENT_TYPE = "eda.event.type"
PLACE = "eda.event.place"  # the sequence, and for an event of a pack its index: "7" or "7.3"
ATTEMPT = "eda.attempt"
DELAY_S = "eda.delay_s"
N_FAILED = "eda.failed"  # how many events of a flush or batch have failed
LINKS_LEFT_OUT = "eda.links_left_out"  # how many further contexts the events of a span have

REASON = "eda.dead_letter.reason"  # "attempts", "rejected" or "undecodable"
INTO = "eda.dead_letter.stream"

# The names of events of a span.
RETRY = "eda.retry"
DEAD_LETTER = "eda.dead_letter"
GIVEN_BACK = "eda.given_back"

MAX_LINKS = 128  # also what the SDK keeps by default


def operation(kind: str, stream: str, client: str, server: tuple[str, int] | None) -> dict[str, Any]:
    """Return the attributes of every span of an operation: "send", "process" or "settle"."""
    attributes: dict[str, Any] = {
        SYSTEM: "nats",
        OPERATION: kind,
        OPERATION_TYPE: kind,
        DESTINATION: stream,
        CLIENT_ID: client,
    }
    if server is not None:
        attributes[SERVER_ADDRESS], attributes[SERVER_PORT] = server
    return attributes
