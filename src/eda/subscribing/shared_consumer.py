"""The consumer of a shared subscription: created or adopted, and repaired if somebody changed it."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from functools import partial
from typing import Any

from eda.cursors.position import warn_of_far_start
from eda.errors import ConfigError, ConsumerDeleted, ServerError
from eda.jetstream.api import Api
from eda.jetstream.consumer_settings import (
    ALL_SUBJECTS,
    MAX_ACK_PENDING,
    Fault,
    Needs,
    find_faults,
    is_attended,
    repaired,
    shown_faults,
    subjects_of,
    unrepairable,
)
from eda.jetstream.labels import labels
from eda.jetstream.stream_info import StreamInfo
from eda.jetstream.subjects import covers, filter_subjects, shown_filter
from eda.log import with_fields
from eda.server_codes import CONSUMER_DOES_NOT_EXIST, CONSUMER_EXISTS, CONSUMER_NOT_FOUND
from eda.subscribing.filters import noted_filter, server_filter, shared_filter, with_note
from eda.subscribing.moved_position import MovedPosition, MovedPositions, started_at
from eda.subscribing.source import PRIVATE_LIFE_S
from eda.subscribing.spec import SubscriptionSpec
from eda.times import NS, rfc3339, since_epoch_ns

__all__ = ["SharedConsumer"]

CONSUMER_GONE = frozenset({CONSUMER_NOT_FOUND, CONSUMER_DOES_NOT_EXIST})
# If a consumer has these settings, the server refuses pulls like ours.
FOREIGN_SETTINGS = ("priority_policy", "priority_groups")
# How often to try a change. The answer to a change may show another client's later change, which proves no refusal.
N_CHANGES = 5
CHANGE_PAUSE_S = 0.05  # between two changes


class SharedConsumer:
    """The pull consumer of one shared subscription. `lease_s` is the consumer's current acknowledgement time-out."""

    def __init__(self, api: Api, logger: logging.Logger, spec: SubscriptionSpec) -> None:
        self._api = api
        self._logger = with_fields(logger, eda_stream=spec.stream, eda_subscription=spec.name)
        self._stream = spec.stream
        self._name = spec.name
        self._options = options = spec.options
        self._is_durable = spec.is_durable
        self.filter: list[str] = filter_subjects(spec.stream, options.types, options.aggregate)
        self.server_filter: list[str] = []  # set by `open`
        self.lease_s: float = float(options.lease_s)
        self._needs = Needs(0, 0, ())  # set by `open`
        self._is_file = True  # whether the stream is stored in files
        self._is_packed = False  # whether the stream may have packs
        self._logged_faults = ""  # the settings that could not be changed, as they were logged last
        self._logged_filter: list[str] = []  # another member's narrower filter, as it was logged last

    @property
    def life_s(self) -> float:
        """Return how long the server keeps the consumer without a member, in seconds; 0 for ever."""
        return self._needs.life_ns / NS

    @property
    def _where(self) -> str:
        return f"subscription {self._name!r} of stream {self._stream!r}"

    # --- opening -----------------------------------------------------------------------------------------------------

    async def open(self, stream: StreamInfo, moved: MovedPositions | None = None) -> dict[str, Any]:
        """Create the consumer, or adopt it if it exists. Return it as the server describes it.

        If somebody has moved the position, a new consumer starts there, whatever the options say.

        Raises ConfigError, which names the settings that contradict the options.
        """
        self.server_filter = server_filter(stream, self.filter, filters_reliably=self._api.filters_reliably)
        self._is_file = stream.options.storage == "file"
        self._is_packed = stream.options.packed
        self._needs = Needs(
            ack_wait_ns=int(self._options.lease_s * NS),
            life_ns=0 if self._is_durable else int(PRIVATE_LIFE_S * NS),
            filter_subjects=tuple(self.server_filter),
            replicas=stream.options.replicas,
        )
        twin = await self._api.twin_domain(self._stream, self._name)
        if twin:
            raise ConfigError(
                f"stream {self._stream!r} has a subscription {self._name!r} in the domain {twin!r} as well as in "
                f"{self._api.domain!r}, and acknowledgements for one would reach both: use another "
                "name, or an exclusive subscription (exclusive, serial, key)",
                argument="name",
            )
        if self._options.reset:
            await self._api.delete_consumer(self._stream, self._name)
        if moved is None:
            moved = MovedPositions(None, self._logger)
        info, is_new = await moved.consumer(self._api, stream, self._name, partial(self._make, stream))
        if is_new:
            self._accept(info["config"])
            return info
        return info | {"config": await self._adopt(info)}

    async def _make(self, stream: StreamInfo, moved: MovedPosition | None) -> dict[str, Any] | None:
        """Create the consumer, at the moved position if there is one. Return None if another member was quicker."""
        config = self._new_config()
        if moved is not None and moved.holds_for(stream):
            config = started_at(config, moved.sequence)
        try:
            made = await self._api.create_consumer(self._stream, self._name, config)
        except ServerError as error:
            if error.err_code != CONSUMER_EXISTS:
                raise
            return None
        await self._refuse_limited_life(made["config"])
        if isinstance(self._options.start, int) and moved is None:
            warn_of_far_start(self._logger, self._stream, self._name, self._options.start, stream.last_sequence)
        return made

    async def _refuse_limited_life(self, config: dict[str, Any]) -> None:
        """Delete the new consumer and raise ConfigError if the stream's limits would end a durable consumer."""
        if not self._is_durable or not config.get("inactive_threshold"):
            return
        await self._api.delete_consumer(self._stream, self._name)
        raise ConfigError(_limited_life(self._stream, self._name, config), argument="durable")

    def _new_config(self) -> dict[str, Any]:
        options = self._options
        label = labels("shared", client=self._api.client, what=self._where, subscription=self._name)
        config: dict[str, Any] = label | {
            "name": self._name,
            "ack_policy": "explicit",
            "ack_wait": self._needs.ack_wait_ns,
            "max_deliver": -1,
            "max_ack_pending": MAX_ACK_PENDING,
            "replay_policy": "instant",
        }
        if self.filter:
            # The consumer itself may have no filter, because the members filter as well. So the metadata notes it.
            config["metadata"] = with_note(label["metadata"], self.filter)
            if self.server_filter:
                config["filter_subjects"] = self.server_filter
        if self._is_durable:
            config["durable_name"] = self._name
        else:
            config["inactive_threshold"] = self._needs.life_ns
        if options.backfill:
            config["deliver_policy"] = "all"
        elif isinstance(options.start, datetime):
            config["deliver_policy"] = "by_start_time"
            config["opt_start_time"] = rfc3339(since_epoch_ns(options.start))
        elif options.start is not None:
            config["deliver_policy"] = "by_start_sequence"
            config["opt_start_seq"] = options.start
        else:
            config["deliver_policy"] = "new"
        return config

    async def _adopt(self, info: dict[str, Any]) -> dict[str, Any]:
        """Adopt a consumer that exists, and return its settings.

        Change back settings that harm the members. Raises ConfigError for other differences.
        """
        kept = info["config"]
        differences = []
        if kept.get("deliver_subject"):
            differences.append(f"it pushes to {kept['deliver_subject']!r}; a pull consumer is needed")
        if kept.get("ack_policy") != "explicit":
            differences.append(f"its ack_policy is {kept.get('ack_policy')!r}; 'explicit' is needed")
        theirs = shared_filter(kept)
        changes_filter = set(theirs) != set(self.filter)
        if changes_filter and self._options.on_filter_change == "refuse":
            differences.append(
                f"it filters {shown_filter(theirs)}, the options ask for {shown_filter(self.filter)} "
                "(on_filter_change='from_here' changes the filter from the kept position onward)"
            )
        if bool(kept.get("durable_name")) != self._is_durable:
            differences.append(f"it was made with durable={bool(kept.get('durable_name'))}")
        differences += [
            f"it has {setting}={kept[setting]!r}"
            for setting in FOREIGN_SETTINGS
            if kept.get(setting) not in (None, "", "none", [])
        ]
        differences += unrepairable(kept, is_durable=self._is_durable, is_file=self._is_file)
        if differences:
            raise ConfigError(
                f"{self._where} exists and differs: "
                + "; ".join(differences)
                + ". Use another name, or reset=True to forget its position.",
                argument="name",
            )
        self._refuse_other_lease(info)
        if changes_filter:
            kept = await self._change_filter(info, theirs)
        return await self.heal(kept, opening=True)

    def _refuse_other_lease(self, info: dict[str, Any]) -> None:
        found_ns = info["config"].get("ack_wait", 0)
        if found_ns != self._needs.ack_wait_ns and is_attended(info):
            raise ConfigError(
                f"{self._where}: lease_s={self._options.lease_s:g}, but the members that are attached use "
                f"{found_ns / NS:g} s (ack_wait). Use lease_s={found_ns / NS:g}, or close these members first.",
                argument="lease_s",
            )

    async def _change_filter(self, info: dict[str, Any], theirs: list[str]) -> dict[str, Any]:
        """Give the consumer this member's filter, from the consumer's position onwards. Return the new settings.

        Raises ConfigError if that would lose events of other members.
        """
        kept, mine, where = info["config"], self.filter, self._where
        if not self._is_filtered_by_server(kept, theirs) or bool(mine) != bool(self.server_filter):
            raise ConfigError(
                f"{where}: its members filter in the client, and would acknowledge events that a new filter asks for. "
                "on_filter_change='from_here' needs nats-server 2.12 and a stream with subjects of its own name. Use "
                "another name, or reset=True to forget its position.",
                argument="on_filter_change",
            )
        if not covers(mine, theirs) and (info.get("num_waiting") or info.get("num_ack_pending")):
            raise ConfigError(
                f"{where}: it filters {shown_filter(theirs)} for members that are attached; the narrower filter "
                f"{shown_filter(mine)} would withhold their events. Close these members first.",
                argument="on_filter_change",
            )
        return await self._set_filter(kept, theirs)

    async def _set_filter(self, kept: dict[str, Any], theirs: list[str]) -> dict[str, Any]:
        mine = self.filter
        config = {key: value for key, value in kept.items() if key not in ("filter_subject", "filter_subjects")}
        config["filter_subjects"] = self.server_filter or [ALL_SUBJECTS]
        config["metadata"] = with_note(kept.get("metadata"), mine)
        made = await self._api.create_consumer(self._stream, self._name, config, action="update")
        self._logger.warning(
            "%s: its filter was %s and is %s now, from its position onwards",
            self._where, shown_filter(theirs), shown_filter(mine),
        )  # fmt: skip
        changed: dict[str, Any] = made["config"]
        return changed

    async def widen(self, config: dict[str, Any]) -> dict[str, Any]:
        """Give the consumer this member's filter again if another member has narrowed it. Return the settings.

        This member was paused or had no connection, so the other member did not see it. With
        `on_filter_change="refuse"` the filter stays, and a warning says that this member does not get all events.
        Raises ServerError, Timeout, Closed.
        """
        theirs = shared_filter(config)
        if set(theirs) == set(self.filter):
            return config
        may_change = self._options.on_filter_change == "from_here" and bool(self.filter) == bool(self.server_filter)
        if may_change and self._is_filtered_by_server(config, theirs):
            try:
                return await self._set_filter(config, theirs)
            except ServerError as error:
                if error.err_code in CONSUMER_GONE:
                    raise ConsumerDeleted(self._stream, self._name, "while its filter was changed") from error
                raise
        if theirs != self._logged_filter:
            self._logged_filter = theirs
            self._logger.warning(
                "%s: another member changed its filter to %s; this member, which asks for %s, gets only "
                "events that the new filter matches",
                self._where, shown_filter(theirs), shown_filter(self.filter),
            )  # fmt: skip
        return config

    def _is_filtered_by_server(self, config: dict[str, Any], theirs: list[str]) -> bool:
        return not theirs or bool(subjects_of(config))

    # --- changing settings back --------------------------------------------------------------------------------------

    async def heal(self, config: dict[str, Any], *, opening: bool = False) -> dict[str, Any]:
        """Change back the settings that harm the members. Return the settings afterwards.

        Raises ConfigError, which names the setting, if the server permanently refuses a vital change; ServerError,
        Timeout, Closed.
        """
        found = self._faults(config, opening=opening)
        if (
            opening
            and config.get("ack_wait") != self._needs.ack_wait_ns
            and not any(each.setting == "ack_wait" for each in found)
        ):
            found.append(Fault("ack_wait", config.get("ack_wait", 0), self._needs.ack_wait_ns))
        if found:
            config = await self._repaired(config, found)
        self._accept(config)
        return config

    async def _repaired(self, config: dict[str, Any], found: list[Fault]) -> dict[str, Any]:
        after = await self._change(config, found)
        if after is None:
            return config
        for _ in range(N_CHANGES - 1):
            if not any(each.is_vital for each in self._faults(after)):
                break
            await asyncio.sleep(CHANGE_PAUSE_S)
            after = await self._change(after, self._faults(after)) or after
        left = [each for each in self._faults(after) if each.is_vital]
        if any(each.setting == "inactive_threshold" for each in left):
            raise ConfigError(_limited_life(self._stream, self._name, after), argument="durable")
        if left:
            raise ConfigError(
                f"{self._where}: its consumer has {shown_faults(left)}, and still has that after {N_CHANGES} changes",
                argument="name",
            )
        # The server may have lowered a value that we asked for to a limit of the stream or the account.
        still_less = {each.setting for each in self._faults(after)}
        changed = [
            each for each in found if each.setting not in still_less or after[each.setting] != config[each.setting]
        ]
        if changed:
            allowed = ", as far as the server allows" if any(each.setting in still_less for each in changed) else ""
            self._logger.warning(
                "%s: its consumer had %s; that was changed%s", self._where, shown_faults(changed), allowed
            )
        if any(each.setting.startswith("filter") for each in found):
            self._logger.warning(
                "%s: the server will not deliver the events that it skipped because of the other filter. To read the "
                "stream anew, use another name or reset=True",
                self._where,
            )
        if any(each.setting == "max_deliver" for each in found):
            self._logger.warning(
                "%s: events that had used up max_deliver before this change are not delivered again. To "
                "read the stream anew, use another name or reset=True",
                self._where,
            )  # fmt: skip
        return after

    async def _change(self, config: dict[str, Any], found: list[Fault]) -> dict[str, Any] | None:
        """Change these settings once. Return all settings afterwards, or None if the server refuses."""
        try:
            made = await self._api.create_consumer(self._stream, self._name, repaired(config, found), action="update")
        except ServerError as error:
            if error.retryable:
                raise
            if error.err_code in CONSUMER_GONE:
                raise ConsumerDeleted(self._stream, self._name, "while its settings were changed") from error
            vital = [each for each in found if each.is_vital]
            if vital:
                raise ConfigError(
                    f"{self._where}: its consumer has {shown_faults(vital)}, and that can't be changed: {error}",
                    argument="name",
                ) from error
            text = shown_faults(found)
            if text != self._logged_faults:
                self._logged_faults = text
                self._logger.warning("%s: its consumer has %s, and that can't be changed: %s", self._where, text, error)
            return None
        after: dict[str, Any] = made["config"]
        return after

    def _faults(self, config: dict[str, Any], *, opening: bool = False) -> list[Fault]:
        # In a packed stream, a consumer without a note, made by another tool, must ask for packs as well.
        by_subjects = self._is_packed and self.server_filter
        is_ours = set(shared_filter(config) if by_subjects else noted_filter(config)) == set(self.filter)
        return find_faults(config, self._needs, is_filter_ours=is_ours, opening=opening)

    def _accept(self, config: dict[str, Any]) -> None:
        """Accept the consumer's current settings, so that no value that the server refused is requested again."""
        ack_wait_ns = min(config.get("ack_wait") or self._needs.ack_wait_ns, *config.get("backoff") or [2**62])
        self.lease_s = max(ack_wait_ns, 1) / NS
        most = config.get("max_ack_pending", -1)
        self._needs = Needs(
            ack_wait_ns=self._needs.ack_wait_ns,
            life_ns=min(self._needs.life_ns, config.get("inactive_threshold") or self._needs.life_ns),
            filter_subjects=self._needs.filter_subjects,
            replicas=self._needs.replicas,
            most_unacknowledged=min(most, MAX_ACK_PENDING) if most > 0 else MAX_ACK_PENDING,
        )


def _limited_life(stream: str, name: str, config: dict[str, Any]) -> str:
    return (
        f"stream {stream!r} has consumer_limits with inactive_threshold: the server would delete the durable "
        f"subscription {name!r} and its position after {config['inactive_threshold'] / NS:g} s without a member. Use "
        "an ordered subscription (exclusive, serial or key), which keeps its position elsewhere."
    )
