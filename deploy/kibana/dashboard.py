"""What the dashboard shows. After a change, `make docs` writes btfeed.ndjson anew."""

from collections.abc import Iterator

from deploy.kibana.objects import Chart, CountryMap, Metric, Object, Placed, Terms, dashboard, data_view

USER_ACTIONS = 'event.category : "user_action"'
PUREPATHS = 'event.category : "purepath"'
VISITS = 'event.category : "visit"'
FAILED, WITH_OUTCOME = 'event.outcome : "failure"', "event.outcome : *"
"""PurePaths and user actions have an outcome, visits don't."""

INDEXES, TIME = "bizevents-appmon-*", "timestamp"
FORMATS: dict[str, Object] = {
    "duration": {
        "id": "duration",
        "params": {
            "inputFormat": "nanoseconds",
            "outputFormat": "humanizePrecise",
            "outputPrecision": 2,
            "showSuffix": True,
            "useShortSuffix": True,
        },
    },
    "appmon.measure.revenue": {"id": "number", "params": {"pattern": "0,0"}},
}
RUNTIME = {
    "appmon.dimension.step": "keyword",
    "appmon.dimension.customer_segment": "keyword",
    "appmon.measure.revenue": "double",
}
"""The names that users choose. Kibana does not see into a flattened field, and takes a panel for broken if its field is in
no mapping yet."""


def count(label: str) -> Metric:
    return Metric("count", label)


def median(label: str = "Median duration") -> Metric:
    return Metric("median", label, "median", "duration")


def p95(label: str = "95th percentile") -> Metric:
    return Metric("p95", label, "percentile", "duration", percentile=95)


def failed() -> Metric:
    return Metric("failed", "Failed rate", kql=FAILED, share_of=WITH_OUTCOME)


def failed_of(label: str, kql: str) -> Metric:
    name = f"failed_{label.lower().replace(' ', '_')}"
    return Metric(name, label, kql=f"{FAILED} and {kql}", share_of=f"{WITH_OUTCOME} and {kql}")


def apdex() -> Metric:
    return Metric("apdex", "Apdex", "average", "appmon.visit.apdex", decimals=2)


def converted() -> Metric:
    name = "appmon.visit.converted"
    return Metric("converted", "Conversion rate", kql=f"{name} : true", share_of=f"{name} : *")


def bounced() -> Metric:
    name = "appmon.visit.bounce"
    return Metric("bounced", "Bounce rate", kql=f"{name} : true", share_of=f"{name} : *")


def actions_per_visit() -> Metric:
    return Metric("actions", "User actions per visit", "average", "appmon.visit.action_count", decimals=1)


def client_errors() -> Metric:
    return Metric("errors", "Client errors", "sum", "appmon.client_error_count", decimals=0)


def revenue() -> Metric:
    return Metric("revenue", "Revenue", "sum", "appmon.measure.revenue")


KEY_FIGURES = (
    (USER_ACTIONS, "btfeed-user-actions", count("User actions"), "How many user actions were there?"),
    (USER_ACTIONS, "btfeed-median", median(), "How long does a user action take?"),
    (USER_ACTIONS, "btfeed-p95", p95(), "How long do the slowest 5 % of user actions take, at least?"),
    (USER_ACTIONS, "btfeed-failed", failed(), "How many of the user actions failed?"),
    (USER_ACTIONS, "btfeed-client-errors", client_errors(), "How many errors did browsers report?"),
    (VISITS, "btfeed-visits", count("Visits"), "How many visits ended?"),
    (VISITS, "btfeed-apdex", apdex(), "How satisfied were visitors, from 0 to 1?"),
    (VISITS, "btfeed-conversion", converted(), "How many visits reached their goal?"),
    (VISITS, "btfeed-bounce", bounced(), "How many visits ended after one user action?"),
    (VISITS, "btfeed-actions-per-visit", actions_per_visit(), "How many user actions does a visit have?"),
)
"""Which records, id, the figure, and the question that it answers."""

OVER_TIME = (
    Chart(
        "btfeed-records-over-time",
        "Records over time",
        "bar_stacked",
        [count("Records")],
        terms=Terms("category", "Category", "event.category", 4),
        answers="Does the feed arrive, and how much of what?",
    ),
    Chart(
        "btfeed-duration-over-time",
        "Duration of user actions over time",
        "line",
        [median("Median"), p95()],
        USER_ACTIONS,
        answers="When was it slow?",
    ),
    Chart(
        "btfeed-failed-over-time",
        "Failed rate over time",
        "line",
        [failed_of("User actions", USER_ACTIONS), failed_of("PurePaths", PUREPATHS)],
        WITH_OUTCOME,
        answers="When did user actions and PurePaths fail?",
    ),
    Chart("btfeed-apdex-over-time", "Apdex over time", "line", [apdex()], VISITS, answers="When were visitors satisfied?"),
)

COUNTRIES = CountryMap(
    "btfeed-map",
    "Visits by country",
    "geo.country.name",
    "Visits",
    VISITS,
    answers="Where do visitors come from?",
)

TABLES = (
    Chart(
        "btfeed-countries",
        "Countries",
        "table",
        [count("Visits"), converted(), apdex()],
        VISITS,
        Terms("country", "Country", "geo.country.name", 20),
        "Where do visitors come from, and are they served equally well everywhere?",
    ),
    Chart(
        "btfeed-transactions",
        "Transactions",
        "table",
        [count("Records"), median(), p95(), failed()],
        WITH_OUTCOME,
        Terms("transaction", "Transaction", "event.name", 20),
        "Which business transactions are frequent, slow, or fail?",
    ),
    Chart(
        "btfeed-applications",
        "Applications",
        "table",
        [
            count("Records"),
            Metric("user_actions", "User actions", kql=USER_ACTIONS),
            Metric("visits", "Visits", kql=VISITS),
            failed(),
            apdex(),
        ],
        terms=Terms("application", "Application", "appmon.application", 20),
        answers="How does each application do?",
    ),
    Chart(
        "btfeed-browsers",
        "Browsers",
        "table",
        [count("Visits"), apdex(), bounced()],
        VISITS,
        Terms("browser", "Browser", "browser.name"),
        "Do visitors with a certain browser have trouble?",
    ),
    Chart(
        "btfeed-dimension",
        "By dimension: step",
        "table",
        [count("User actions"), median(), failed()],
        USER_ACTIONS,
        Terms("dimension", "Step", "appmon.dimension.step", 20),
        "Which values of a dimension are frequent, slow, or fail?",
    ),
    Chart(
        "btfeed-measure",
        "Revenue by dimension: customer segment",
        "table",
        [count("Visits"), revenue(), converted()],
        VISITS,
        Terms("segment", "Customer segment", "appmon.dimension.customer_segment", 20),
        "What does a measure add up to, by a dimension?",
    ),
)


def panels() -> Iterator[Placed]:
    for number, (kql, name, metric, question) in enumerate(KEY_FIGURES):
        row, place = divmod(number, 5)
        width = 9 if place < 4 else 12
        yield Chart(name, metric.label, "metric", [metric], kql, answers=question), (9 * place, 6 * row, width, 6)
    for number, chart in enumerate(OVER_TIME):
        yield chart, (24 * (number % 2), 12 + 12 * (number // 2), 24, 12)
    yield COUNTRIES, (0, 36, 28, 18)
    countries, *others = TABLES
    yield countries, (28, 36, 20, 18)
    for number, chart in enumerate(others):
        yield chart, (24 * (number % 2), 54 + 14 * (number // 2), 24, 14)


def objects() -> list[Object]:
    """All saved objects: the data view, the panels, the dashboard."""
    placed = list(panels())
    view = data_view(INDEXES, "AppMon business transactions", TIME, FORMATS, RUNTIME)
    title, description = "AppMon business transactions", "What btfeed receives from AppMon's Business Transactions feed."
    whole = dashboard("btfeed-dashboard", title, description, placed)
    return [view, *(panel.saved_object() for panel, _ in placed), whole]
