"""What the server says about itself, the account, the streams and their consumers, and how its clock differs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from eda.errors import EdaError, ServerError, StreamNotFound, Timeout
from eda.jetstream.api import REQUEST_TIMEOUT_S, Api, stream_error
from eda.jetstream.bucket import BUCKET_STREAM
from eda.jetstream.domains import domains_within_reach
from eda.jetstream.labels import KIND
from eda.jetstream.listing import consumers_of, stream_pages
from eda.jetstream.schemas import Account, Stream, nanoseconds
from eda.jetstream.stream_info import StreamInfo, info_of
from eda.jetstream.subjects import overlaps
from eda.names import STREAM_NAME
from eda.subscribing.behind import SubscriptionInfo
from eda.subscribing.lag import Lags
from eda.times import NS

__all__ = ["Facts", "StreamFacts", "read_facts"]

MAX_REQUESTS = 8  # streams that are read at the same time
N_ROUND_TRIPS = 3
ELSEWHERE_S = 2.0  # how long to wait for the streams of another domain


@dataclass
class StreamFacts:
    """A stream, its consumers as the server lists them, and its subscriptions as eda knows them."""

    info: StreamInfo
    config: dict[str, Any]
    state: dict[str, Any]
    cluster: dict[str, Any]
    now_ns: int  # by the server's clock
    consumers: list[dict[str, Any]] = field(default_factory=list)
    subscriptions: list[SubscriptionInfo] = field(default_factory=list)
    unread: str = ""  # why consumers or subscriptions could not be read

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.info.name


@dataclass
class Facts:
    """What a diagnosis looks at."""

    server: dict[str, Any]  # the server's INFO
    api: Api
    account: dict[str, Any]
    round_trip_s: float
    skew_s: float | None  # how far the server's clock is ahead of this machine's; None: not known
    every: dict[str, dict[str, Any]]  # all streams of the account: their settings
    states: dict[str, dict[str, Any]]  # all streams of the account: how much they hold
    examined: list[StreamFacts]
    others: list[str]  # streams of other programs, which are not examined
    silent: list[str]  # streams whose leader does not answer, so they can't be examined
    elsewhere: dict[str, dict[str, dict[str, Any]]]  # for each other domain within reach, its streams: their settings


async def read_facts(api: Api, names: Iterable[str] | None) -> Facts:
    """Read all facts. `names`: the streams to examine; None: all that hold events of eda.

    Raises StreamNotFound for a name without a stream, ServerError, Timeout, Closed.
    """
    round_trips = []
    for _ in range(N_ROUND_TRIPS):
        began = time.perf_counter()
        account = await api.request("INFO", schema=Account)
        round_trips.append(time.perf_counter() - began)
    answers, missing, skew_s = await _every_stream(api)
    every = {name: answer["config"] for name, answer in answers.items()}
    known = {name: {"name": name, "subjects": [f"{name}.>"]} for name in missing} | every
    wanted = sorted(known) if names is None else list(dict.fromkeys(names))
    for name in wanted:
        if name not in known:
            raise StreamNotFound(name)
    ours = [name for name in wanted if names is not None or is_ours(known[name])]
    limit = asyncio.Semaphore(MAX_REQUESTS)

    async def read(name: str) -> StreamFacts | None:
        async with limit:
            try:
                return await _read_stream(api, name)
            except StreamNotFound:
                return None  # it was deleted meanwhile

    tasks = [asyncio.ensure_future(read(name)) for name in ours if name not in missing]
    try:
        found = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return Facts(
        server=api.wire.info,
        api=api,
        account=account,
        round_trip_s=min(round_trips),
        skew_s=skew_s,
        every=every,
        states={name: answer["state"] for name, answer in answers.items()},
        examined=[each for each in found if each is not None],
        others=[name for name in wanted if name not in ours],
        silent=sorted(missing.intersection([*ours, BUCKET_STREAM])),
        elsewhere=await _elsewhere(api) if ours else {},
    )


def is_ours(config: dict[str, Any]) -> bool:
    """Return whether a stream with these settings seems to hold events of eda."""
    name = config["name"]
    if not STREAM_NAME.fullmatch(name) or name.startswith(("KV_", "OBJ_")):
        return False
    origins = config.get("mirror") or config.get("sources")
    if (config.get("metadata") or {}).get(KIND) == "stream":
        return True
    subjects = config.get("subjects") or []
    return bool(origins) or any(overlaps(subject, f"{name}.*.*") and subject != ">" for subject in subjects)


async def _elsewhere(api: Api) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the settings of the streams of other domains, as far as their servers answer."""
    if not (api.domain or api.wire.info.get("domain")):
        return {}  # servers without domains need no question
    found = {}
    for domain in sorted(await domains_within_reach(api.wire) - {api.domain}):
        other = Api(api.wire, domain)
        with suppress(ServerError, Timeout), api.wire.may_be_forbidden.during([f"{other.prefix}.STREAM.LIST"]):
            answers, _, _ = await _every_stream(other, ELSEWHERE_S)
            found[domain] = {name: answer["config"] for name, answer in answers.items()}
    return found


async def _every_stream(
    api: Api, patience_s: float = REQUEST_TIMEOUT_S
) -> tuple[dict[str, dict[str, Any]], set[str], float | None]:
    """Return the answers about all streams by name, the streams without a leader that answers, and the clock's lead.

    If all servers of a stream have said that they stop, the cluster itself answers for the stream, with its settings.
    """
    every: dict[str, dict[str, Any]] = {}
    missing: set[str] = set()
    skew_s: float | None = None
    async for page in stream_pages(api, timeout_s=patience_s):
        every |= {each["config"]["name"]: each for each in page.found}
        missing.update(page.missing)
        times = [ns for each in page.found if (ns := nanoseconds(each.get("ts") or ""))]
        if times and skew_s is None:
            skew_s = skew(page.began_ns, times[-1], page.ended_ns)
    return every, missing, skew_s


def skew(began_ns: int, server_ns: int, ended_ns: int) -> float:
    """Return how many seconds the server's clock is ahead at least; negative: behind; 0.0: the clocks may agree.

    The server read its clock between the request and the answer.
    """
    if server_ns > ended_ns:
        return (server_ns - ended_ns) / NS
    return min(server_ns - began_ns, 0) / NS


async def _read_stream(api: Api, name: str) -> StreamFacts:
    try:
        answer = await api.request(f"STREAM.INFO.{name}", schema=Stream)
    except ServerError as error:
        raise stream_error(error, name) from error
    facts = StreamFacts(
        info=info_of(answer),
        config=answer["config"],
        state=answer["state"],
        cluster=answer.get("cluster") or {},
        now_ns=nanoseconds(answer.get("ts") or "") or time.time_ns(),
    )
    try:
        facts.consumers = await consumers_of(api, name)
        facts.subscriptions = await Lags(api.wire, api).read(name)
    except StreamNotFound:
        raise
    except EdaError as error:  # such as a missing permission
        if api.wire.is_closed:
            raise
        facts.unread = " ".join(str(error).split())
    return facts
