"""Generates the tables in README.md and docs/: settings, metrics, record fields, modules and figures. Also whole files: the
JSON Schema, and the dashboards in deploy/.

    python -m docs.generate [--check]

A generated block stands between `<!-- generated: NAME -->` and `<!-- end -->`; its content is replaced. With `--check`,
nothing is written, and the exit status is 1 if a page is out of date.
"""

import ast
import difflib
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

import sinks
from benchmarks import figures
from btfeed.config import Sections
from btfeed.config.keys import Key, NotDocumented, in_toml, keys
from btfeed.config.schema import schema
from btfeed.delivery.sink_config import CommonSettings
from btfeed.flow.definition import Definition
from btfeed.flow.schema import schema as report_schema
from btfeed.flow.terms import TERMS
from btfeed.http.reasons import REASONS
from btfeed.journal import create as journals
from btfeed.records.schema import CATEGORIES, CONSTANTS, DIMENSIONS, FIELDS, VALUES, Field
from btfeed.telemetry.metrics import Metrics
from btfeed.traffic.profile import Profile
from deploy.dynatrace.make import texts as dynatrace
from deploy.dynatrace.queries import QUERIES
from deploy.kibana.dashboard import panels
from deploy.kibana.make import texts as kibana
from sinks.settings import Settings

ROOT = Path(__file__).parent.parent
DOCS = Path(__file__).parent
SCHEMA = ROOT / "btfeed" / "config" / "btfeed.schema.json"
REPORT_SCHEMA = DOCS / "flow-report.schema.json"


BLOCK = re.compile(r"^(<!-- generated: (.+?) -->\n).*?^(<!-- end -->)", re.DOTALL | re.MULTILINE)


def settings(model: type[Settings]) -> Iterator[str]:
    """The keys of one table of the configuration."""
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for key in keys(model):
        yield f"| `{key.name}` | {key.kind} | {default_of(key)} | {key.meaning} |"


def default_of(key: Key) -> str:
    if key.required:
        return "required"
    if isinstance(key.default, Settings):
        return "see below"
    return "none" if key.default is None else f"`{in_toml(key.default, key.kind)}`"


def delivery(defaults: dict[str, Any]) -> Iterator[str]:
    """The defaults of [sinks.NAME.delivery] that a type of sink changes."""
    yield "| key | default |"
    yield "|---|---|"
    for key, value in defaults.items():
        yield f"| `delivery.{key}` | `{in_toml(value)}` |"


def metrics() -> Iterator[str]:
    yield "| metric | type | labels | meaning |"
    yield "|---|---|---|---|"
    made = Metrics()
    registry = made.registry
    _ = made.kafka_journal  # makes them
    for collector in registry._collector_to_names:
        labels = ", ".join(f"`{label}`" for label in getattr(collector, "_labelnames", ()))
        for family in collector.describe() if hasattr(collector, "describe") else collector.collect():
            name = family.name + ("_total" if family.type == "counter" else "")
            yield f"| `{name}` | {family.type} | {labels} | {family.documentation.removesuffix('.')} |"


def refusals() -> Iterator[str]:
    yield "| reason | answer | meaning | post lost | what to do |"
    yield "|---|---|---|---|---|"
    for name, reason in REASONS.items():
        lost = "kept as a [dead letter](operations.md#dead-letters)" if reason.lost == "kept" else reason.lost
        more = f" ([more]({reason.section}))" if reason.section else ""
        answer = f" {reason.answer} " if reason.answer else " "
        yield f"| `{name}` |{answer}| {reason.meaning} | {lost} | {reason.remedy}{more} |"


SAID = {
    "timestamp": "RFC 3339, UTC, milliseconds",
    "nanoseconds": "integer, nanoseconds",
    "decimal": "string of decimal digits",
    "outcome": "`failure` if true, `success` if false",
    "string": "string",
    "number": "number",
    "integer": "integer",
    "boolean": "boolean",
    "strings": "array of strings",
    "measures": "number",
    "dimensions": "string",
}
PRESENCE = {"Y": "yes", "N": "no", "O": "may"}


def constants() -> Iterator[str]:
    yield "| field | value | meaning |"
    yield "|---|---|---|"
    for field in CONSTANTS:
        yield f"| `{field.name}` | {field.type}{', always there' if field.always else ''} | {field.doc} |"


def record() -> Iterator[str]:
    yield f"| field | value | from | {' | '.join(CATEGORIES)} |"
    yield "|---|---|---|---|---|---|"
    for field in FIELDS:
        unit = f", {field.unit}" if field.unit and field.encoding in ("number", "integer") else ""
        older = f", older servers: `{field.older_name}`" if field.older_name else ""
        presence = " | ".join(PRESENCE[field.presence_in(category)] for category in CATEGORIES)
        yield f"| `{shown(field)}` | {SAID[field.encoding]}{unit} | `{field.name}` ({field.number}){older} | {presence} |"


def shown(field: Field) -> str:
    return field.record + ("NAME" if field in (VALUES, DIMENSIONS) else "")


def sections() -> dict[str, type[Settings]]:
    """The tables of the configuration that do not depend on the type of a sink, by path."""
    found: dict[str, type[Settings]] = {}
    for name, hint in get_type_hints(Sections).items():
        if isinstance(hint, type) and issubclass(hint, Settings):
            found |= _with_inner(name, hint)
    for name in journals.TYPES:
        if name != journals.DEFAULT_TYPE:
            found |= _with_inner(f"journal, type {name}", journals.settings_of(name))
    return found | _with_inner("sinks.NAME", CommonSettings)


def sink_blocks(name: str) -> dict[str, Callable[[], Iterator[str]]]:
    """The generated blocks that document a type of sink, by their names."""
    try:
        sink_type = sinks.load(name)
    except Exception as error:
        raise NotDocumented(f"can't import sinks.{name}: {error!r}") from error
    tables = _with_inner(f"sinks.NAME, type {name}", sink_type.settings)
    made: dict[str, Callable[[], Iterator[str]]] = {
        f"settings {path}": partial(settings, model) for path, model in tables.items()
    }
    return made | ({f"delivery of {name}": partial(delivery, sink_type.delivery)} if sink_type.delivery else {})


def _with_inner(path: str, model: type[Settings]) -> dict[str, type[Settings]]:
    """A table and those inside it, by path."""
    found = {path: model}
    for name, hint in get_type_hints(model).items():
        for inner in (hint, *get_args(hint)):
            if isinstance(inner, type) and issubclass(inner, Settings):
                found |= _with_inner(f"{path}.{name}", inner)
    return found


def tables_of(top: type[Settings]) -> dict[str, type[Settings]]:
    """The tables of a profile, or of a definition, by path with a leading blank."""
    found: dict[str, type[Settings]] = {"": top}

    def add(path: str, hint: Any) -> None:
        if isinstance(hint, type) and issubclass(hint, Settings):
            found[f" {path}"] = hint
            for name, inner in get_type_hints(hint).items():
                add(f"{path}.{name}", inner)
        for inner in get_args(hint):
            add(path, inner)

    for name, hint in get_type_hints(top).items():
        add(name, hint)
    return found


def flow_numbers() -> Iterator[str]:
    """What each number of a report of flows is."""
    yield "| number | is |"
    yield "|---|---|"
    for name, meaning in TERMS:
        yield f"| {name} | {meaning} |"


def modules() -> Iterator[str]:
    """Every package and module with the first line of its docstring, importers above what they import."""
    yield "| module | what it does |"
    yield "|---|---|"
    seen = {ROOT / "btfeed" / "__init__.py"}
    for top in (*layers(), ROOT / "btfeed", ROOT / "sinks"):
        for path in _sources(top):
            if path not in seen:
                seen.add(path)
                yield _module(path)


def layers() -> Iterator[Path]:
    """The packages and modules of the import contract, from its top layer down."""
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for contract in configuration["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "layers":
            for name in re.findall(r"[\w.]+", " ".join(contract["layers"])):
                inside = ROOT / "btfeed" / name.removeprefix("btfeed.").replace(".", "/")
                yield inside if inside.is_dir() or inside.with_suffix(".py").exists() else ROOT / name.replace(".", "/")


def _sources(top: Path) -> Iterator[Path]:
    """The module at `top`; or the package there, its modules, then its sub-packages."""
    if not top.is_dir():
        yield from filter(Path.exists, [top.with_suffix(".py")])
    elif (top / "__init__.py").exists():
        yield top / "__init__.py"
        yield from sorted(path for path in top.glob("*.py") if path.name not in ("__init__.py", "__main__.py"))
        for inner in sorted(filter(Path.is_dir, top.iterdir())):
            yield from _sources(inner)


def _module(path: Path) -> str:
    first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    if path.name == "__init__.py":
        return f"| **`{path.parent.relative_to(ROOT)}/`** | **{first}** |"
    return f"| `{path.relative_to(ROOT)}` | {first} |"


def dashboard(panels: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Titles of a dashboard's panels, and the questions that they answer."""
    yield "| panel | answers |"
    yield "|---|---|"
    for title, question in panels:
        yield f"| {title} | {question} |"


def tables() -> dict[str, Callable[[], Iterator[str]]]:
    made: dict[str, Callable[[], Iterator[str]]] = {
        "modules": modules,
        "metrics": metrics,
        "refusals": refusals,
        "record": record,
        "flow numbers": flow_numbers,
        "record constants": constants,
        "figures": figures.tables,
        "figures-short": figures.short,
        "kibana": partial(dashboard, ((panel.title, panel.answers) for panel, _ in panels())),
        "dynatrace": partial(dashboard, ((query.title, query.question) for query in QUERIES)),
    }
    made |= {f"settings {path}": partial(settings, model) for path, model in sections().items()}
    made |= {f"profile{path}": partial(settings, model) for path, model in tables_of(Profile).items()}
    made |= {f"flow{path}": partial(settings, model) for path, model in tables_of(Definition).items()}
    for name in sinks.types():
        made |= sink_blocks(name)
    return made


def generate(text: str, made: Mapping[str, Callable[[], Iterator[str]]]) -> str:
    """`text` with its generated blocks up to date. made: all of them, by name. Raises NotDocumented."""

    def replaced(block: re.Match[str]) -> str:
        if block[2] not in made:
            close = difflib.get_close_matches(block[2], made, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise NotDocumented(f"there is no table for <!-- generated: {block[2]} -->{hint}")
        return f"{block[1]}\n" + "\n".join(made[block[2]]()) + f"\n\n{block[3]}"

    return BLOCK.sub(replaced, text)


def json_schema() -> str:
    """The schema that is in the package: with the sinks of the project, whatever else is installed."""
    return _json(schema(name for name in sinks.types() if name in sinks.modules()))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def main() -> None:
    stale = []
    try:
        made = tables()
        files = {SCHEMA: json_schema(), REPORT_SCHEMA: _json(report_schema())} | kibana() | dynatrace()
    except NotDocumented as error:
        sys.exit(str(error))
    for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md")), *files):
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        try:
            new = files[path] if path in files else generate(text, made)
        except NotDocumented as error:
            sys.exit(f"{path.relative_to(ROOT)}: {error}")
        if new != text:
            stale.append(str(path.relative_to(ROOT)))
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"out of date: {', '.join(stale)}; run `make docs`")


if __name__ == "__main__":
    main()
