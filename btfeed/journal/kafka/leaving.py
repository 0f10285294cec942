"""Ends the memberships of a process that is gone and does not come back, so that others need not wait for its session."""

from collections.abc import Collection

from aiokafka import errors
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.group import LeaveGroupRequest

from btfeed.journal.base import JournalUnavailable
from btfeed.journal.kafka.cluster import Cluster
from btfeed.journal.kafka.overview import instance_of
from btfeed.journal.kafka.settings import KafkaJournalSettings
from sinks.base import SinkError

_NO_MEMBER = (errors.NoError, errors.UnknownMemberIdError)


async def leave(settings: KafkaJournalSettings, sinks: Collection[str]) -> list[str]:
    """Let `journal.instance` leave the groups of these sinks. Returns those in which it was. Raises
    JournalUnavailable, also if a right is missing."""
    cluster = Cluster(settings)
    try:
        return [sink for sink in sinks if await _leave(cluster, cluster.names.group(sink), settings.instance_name)]
    except SinkError as error:
        raise JournalUnavailable(str(error)) from error
    finally:
        await cluster.close()


async def _leave(cluster: Cluster, group: str, instance: str) -> bool:
    coordinator = await cluster.coordinator(group)
    reply = await cluster.ask(DescribeGroupsRequest([group]), coordinator)
    left = False
    for described in reply.to_object()["groups"]:
        if error := cluster.denied(described["error_code"], "DESCRIBE", f"group {group}"):
            raise error
        for member in described["members"]:
            if instance_of(member["member_id"], member["client_id"]) == instance:
                answer = await cluster.ask(LeaveGroupRequest(group, member["member_id"]), coordinator)
                if error := cluster.denied(answer.error_code, "READ", f"group {group}"):
                    raise error
                if errors.for_code(answer.error_code) not in _NO_MEMBER:
                    raise JournalUnavailable(f"group {group}: {errors.for_code(answer.error_code).__name__}")
                left = True
    return left
