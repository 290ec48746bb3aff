"""What asking devices for their losses has cost (`selection: power_of_choice`): bytes that moved no update."""

from __future__ import annotations

from msgspec import Struct

from history.record import Record


class ProbeSummary(Struct, frozen=True, kw_only=True):
    """`downlink_bytes` are part of the run's: who is chosen afterwards has its version already. `uplink_bytes` are
    whole messages, beside the run's, which are of updates.
    """

    asked: int  # how often: before each round, and once more by a coordinator that started again
    answers: int
    uplink_bytes: int  # of the answers, as the coordinator counted them
    downlink_bytes: int  # of what was fetched for a probe, as the devices say, unanswered ones included


def summary(record: Record) -> ProbeSummary | None:
    """None where nobody was asked."""
    if not record.probes:
        return None
    devices = record.devices.values()
    return ProbeSummary(
        asked=len(record.probes),
        answers=sum(device.probe_answers for device in devices),
        uplink_bytes=sum(device.probe_uplink_bytes for device in devices),
        downlink_bytes=sum(device.probe_downlink_bytes for device in devices),
    )
