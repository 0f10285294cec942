"""What the dashboard and the notebook ask. After a change, `make docs` writes both files anew.

Each query begins with the events of the chosen applications, each of them once: the bizevents sink may send an event twice.
"""

from dataclasses import dataclass
from typing import Literal

EVENTS = """\
fetch bizevents
| filter {provider}
| filter in(event.category, "purepath", "user_action", "visit")
| dedup event.id"""
PROVIDERS = """\
fetch bizevents
| filter in(event.category, "purepath", "user_action", "visit")
| dedup event.provider
| fields event.provider
| sort event.provider asc"""
"""The applications to choose from."""

Shape = Literal["singleValue", "lineChart", "barChart", "categoricalBarChart", "table"]


@dataclass(frozen=True)
class Query:
    """A tile of the dashboard, and a section of the notebook.

    rest      the DQL after EVENTS
    shows     the column that a single value shows
    suffix    its unit
    decimals  how many it has
    size      width of the tile, in 24 columns, and its height
    """

    title: str
    question: str
    rest: str
    visualization: Shape
    shows: str = ""
    suffix: str = ""
    decimals: int = 0
    size: tuple[int, int] = (12, 6)

    def dql(self, provider: str) -> str:
        """The whole query. provider: the condition on event.provider."""
        return EVENTS.format(provider=provider) + "\n" + self.rest.strip()


FIGURE = (4, 3)
QUERIES = (
    Query(
        "User actions",
        "How many user actions were there?",
        """
| filter event.category == "user_action"
| summarize actions = count()
""",
        "singleValue",
        "actions",
        size=FIGURE,
    ),
    Query(
        "Median duration",
        "How long does a user action take? `duration` is in nanoseconds.",
        """
| filter event.category == "user_action"
| summarize median_ms = median(duration) / 1000000
""",
        "singleValue",
        "median_ms",
        "ms",
        size=FIGURE,
    ),
    Query(
        "95th percentile",
        "How long do the slowest 5 % of user actions take, at least?",
        """
| filter event.category == "user_action"
| summarize p95_ms = percentile(duration, 95) / 1000000
""",
        "singleValue",
        "p95_ms",
        "ms",
        size=FIGURE,
    ),
    Query(
        "Failed rate",
        "How many of the user actions failed?",
        """
| filter event.category == "user_action"
| summarize all = count(), failed = countIf(event.outcome == "failure")
| fieldsAdd failed_percent = 100.0 * failed / all
""",
        "singleValue",
        "failed_percent",
        "%",
        1,
        FIGURE,
    ),
    Query(
        "Apdex",
        "How satisfied were visitors, from 0 to 1? AppMon computes it for each visit.",
        """
| filter event.category == "visit"
| summarize apdex = avg(appmon.visit.apdex)
""",
        "singleValue",
        "apdex",
        decimals=2,
        size=FIGURE,
    ),
    Query(
        "Conversion rate",
        "How many visits reached their goal?",
        """
| filter event.category == "visit"
| summarize visits = count(), converted = countIf(appmon.visit.converted == true)
| fieldsAdd converted_percent = 100.0 * converted / visits
""",
        "singleValue",
        "converted_percent",
        "%",
        1,
        FIGURE,
    ),
    Query(
        "Events by category",
        "Does the feed arrive, and how much of what?",
        """
| makeTimeseries events = count(), by: { event.category }
""",
        "barChart",
    ),
    Query(
        "Duration of user actions",
        "When was it slow?",
        """
| filter event.category == "user_action"
| fieldsAdd ms = duration / 1000000.0
| makeTimeseries { median_ms = median(ms), p95_ms = percentile(ms, 95) }
""",
        "lineChart",
    ),
    Query(
        "Failed rate over time",
        "When did PurePaths and user actions fail?",
        """
| filter isNotNull(event.outcome)
| makeTimeseries { all = count(), failed = countIf(event.outcome == "failure") }, by: { event.category }
| fieldsAdd failed_percent = 100.0 * failed[] / all[]
| fieldsRemove all, failed
""",
        "lineChart",
    ),
    Query(
        "Apdex over time",
        "When were visitors satisfied?",
        """
| filter event.category == "visit"
| makeTimeseries apdex = avg(appmon.visit.apdex), by: { appmon.application }
""",
        "lineChart",
    ),
    Query(
        "Countries",
        "Where do visitors come from, and are they served equally well everywhere?",
        """
| filter event.category == "visit"
| summarize {
    visits = count(),
    converted = countIf(appmon.visit.converted == true),
    apdex = avg(appmon.visit.apdex)
  }, by: { geo.country.name }
| fieldsAdd converted_percent = 100.0 * converted / visits
| fieldsRemove converted
| sort visits desc
| limit 20
""",
        "table",
    ),
    Query(
        "Transactions",
        "Which business transactions are frequent, slow, or fail?",
        """
| filter isNotNull(event.outcome)
| summarize {
    events = count(),
    failed = countIf(event.outcome == "failure"),
    median_ms = median(duration) / 1000000,
    p95_ms = percentile(duration, 95) / 1000000
  }, by: { event.name }
| fieldsAdd failed_percent = 100.0 * failed / events
| sort events desc
| limit 20
""",
        "table",
    ),
    Query(
        "Applications",
        "How does each application do?",
        """
| summarize {
    events = count(),
    actions = countIf(event.category == "user_action"),
    visits = countIf(event.category == "visit"),
    failed = countIf(event.outcome == "failure"),
    apdex = avg(appmon.visit.apdex),
    client_errors = sum(appmon.client_error_count)
  }, by: { appmon.application }
| sort events desc
| limit 20
""",
        "table",
    ),
    Query(
        "Bounces by browser",
        "Do visitors with a certain browser have trouble?",
        """
| filter event.category == "visit"
| summarize {
    visits = count(),
    bounced = countIf(appmon.visit.bounce == true),
    actions = avg(appmon.visit.action_count)
  }, by: { browser.name }
| fieldsAdd bounced_percent = 100.0 * bounced / visits
| sort visits desc
| limit 10
""",
        "table",
    ),
    Query(
        "By dimension: step",
        "Which values of a dimension are frequent, slow, or fail? Write the name of your dimension for `step`.",
        """
| filter event.category == "user_action" and isNotNull(appmon.dimension.step)
| summarize {
    actions = count(),
    failed = countIf(event.outcome == "failure"),
    median_ms = median(duration) / 1000000
  }, by: { appmon.dimension.step }
| sort actions desc
| limit 20
""",
        "table",
    ),
    Query(
        "Revenue by dimension: customer segment",
        "What does a measure add up to, by a dimension? Write the names of yours for `revenue` and `customer_segment`.",
        """
| filter event.category == "visit"
| summarize revenue = sum(appmon.measure.revenue), by: { appmon.dimension.customer_segment }
| sort revenue desc
| limit 20
""",
        "categoricalBarChart",
    ),
)
