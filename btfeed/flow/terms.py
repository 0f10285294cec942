"""What each number of a report is, in a sentence: on the page, and in docs/flow.md."""

TERMS: tuple[tuple[str, str], ...] = (
    (
        "flow",
        "The records that share a correlation id, such as those of one visit. It belongs to the period in which it began.",
    ),
    ("started", "Flows that began in the period: they have a step where a flow may begin."),
    ("converted", "Flows that reached a goal, within the window if the definition has one; later ones are late."),
    ("late", "Flows that reached a goal, but after the window: not converted, not dropped. Their value is told apart."),
    (
        "conversion",
        "Converted of started flows, with the interval in which the true rate is with 95 % probability (Wilson).",
    ),
    (
        "ended",
        "Flows that reached no goal, and of which a record says that they are over, such as that of the visit's end.",
    ),
    ("lost", "Flows without such a record, and without a step for the definition's lost_after or longer."),
    (
        "open",
        "All others: they may still go on. While many are open, rates are too low; --mature leaves them out fairly.",
    ),
    ("dropped", "Ended and lost flows. They dropped at the furthest step that they reached."),
    ("reached", "Flows with an event of a step at or after the time at which a step before it was reached."),
    (
        "of before",
        "Flows that reached the step, of those that reached the one before; of an optional step, those that took it.",
    ),
    ("drop-off", "Flows that dropped at a step, or at optional steps after it, of those that reached it."),
    ("time", "From the first time at a step to the first time at the next, of flows that reached both."),
    ("half, 95 % within", "Median and 95th percentile. An average alone hides that some flows take very long."),
    ("beyond target", "Flows that took longer than the definition's target for a step, of those that reached it."),
    ("more than once", "Flows with several events of a step, of those that reached it."),
    ("exceptions", "Events that failed, of all events of a step: AppMon's failed actions, or what the definition says."),
    (
        "value won",
        "The value of converted flows. Lost: of dropped ones; about: estimated where a flow has no value of its own.",
    ),
    (
        "not estimated",
        "Flows that came as far as those that are estimated, of a kind of which none converted with a value.",
    ),
    ("at risk", "The value of open flows."),
    ("noise", "A change so small that chance alone explains it: less than two standard deviations."),
    (
        "hatched",
        "Buckets that are not whole: not wholly in the period or between the oldest record and as_of, or with open flows.",
    ),
    ("compared", "The same numbers of an earlier period, as they stood then, so that equal things are compared."),
)
"""Term and meaning."""
