"""The status of a sink whose partitions have a delivery each."""

from btfeed.telemetry.sink_status import BlockedDestination, State, WholeStatus


def state(whole: WholeStatus) -> State:
    """As it is now: a type checker takes a property for a value that stays."""
    return whole.state


def test_numbers_are_sums_also_of_deliveries_that_have_ended() -> None:
    """A partition that comes back counts on."""
    whole = WholeStatus()
    for partition in range(3):
        part = whole.begin(partition)
        part.delivered += 10
        part.retried += 2
        part.dead_letters += 1
    whole.end(0)
    assert (whole.delivered, whole.retried, whole.dead_letters, whole.partitions) == (30, 6, 3, 2)
    whole.begin(0).delivered += 1
    assert (whole.delivered, whole.partitions) == (31, 3)


def test_the_worst_state_is_shown() -> None:
    """Of the deliveries; without one, why there is none."""
    whole = WholeStatus()
    assert state(whole) == "idle"
    one, two = whole.begin(0), whole.begin(1)
    assert state(whole) == "opening"
    one.state = two.state = "running"
    assert state(whole) == "running"
    two.state = "unavailable"
    assert state(whole) == "unavailable"
    one.state = "misconfigured"
    assert state(whole) == "misconfigured"
    whole.end(0)
    assert state(whole) == "unavailable"
    whole.end(1)
    whole.resting = "paused"
    assert state(whole) == "paused"


def test_the_newest_error_is_shown() -> None:
    """With its time. What keeps the process from its partitions comes first."""
    whole = WholeStatus()
    assert (whole.last_error, whole.last_error_time) == (None, None)
    for partition, error in ((0, "old"), (1, "new")):
        part = whole.begin(partition)
        part.last_error, part.last_error_time = error, 1000 + partition
    assert (whole.last_error, whole.last_error_time) == ("new", 1001)
    whole.problem = lambda: "no broker replies"
    assert (state(whole), whole.last_error, whole.last_error_time) == ("opening", "no broker replies", None)
    whole.end(0)
    whole.end(1)
    assert state(whole) == "unavailable"
    whole.conflict = lambda: True
    assert state(whole) == "misconfigured"
    whole.resting = "stopped"
    assert state(whole) == "stopped"


def test_destinations_are_shown_once() -> None:
    """With all records that wait, and what the first delivery met."""
    whole = WholeStatus()
    one, two = whole.begin(0), whole.begin(1)
    one.blocked["topic a"] = BlockedDestination("later", 2, 3)
    two.blocked["topic a"] = BlockedDestination("first", 1, 4)
    two.blocked["topic b"] = BlockedDestination("other", 5, 1)
    assert whole.blocked == {"topic a": BlockedDestination("first", 1, 7), "topic b": BlockedDestination("other", 5, 1)}
    assert one.blocked["topic a"].waiting == 3
    whole.end(1)
    assert whole.blocked == {"topic a": BlockedDestination("later", 2, 3)}
