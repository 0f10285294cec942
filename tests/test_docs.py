"""The documentation matches the code: commands, keys, metrics, modules, links, tests and the record."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

import sinks
from btfeed import config
from btfeed.commands.main import cli
from btfeed.config.keys import NotDocumented
from btfeed.flow import definition
from btfeed.http.reasons import REASONS
from btfeed.journal import create as journals
from btfeed.posts.post import digest
from btfeed.records.mapper import create_mapper
from btfeed.records.schema import FIELDS, RECORD_FIELDS
from btfeed.records.settings import RecordSettings
from btfeed.records.validation import ValidationSettings
from btfeed.telemetry.metrics import Metrics
from btfeed.traffic import profile
from btfeed.traffic.generate import GenerateOptions, generate
from docs.generate import generate as tables_filled_in
from docs.generate import metrics as metrics_table
from docs.generate import sections, sink_blocks, tables_of
from docs.generate import settings as settings_table
from sinks.base import SinkType
from sinks.settings import Settings
from tests.sinks import test_contract as test_sink_contract
from tests.support import dql, posts

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = {path: path.read_text(encoding="utf-8") for path in PAGES}
ENVIRONMENT = {"BTFEED_PASSWORD": "p", "BTFEED_HASH_KEY": "k", "DYNATRACE_TOKEN": "t", "DYNATRACE_SECRET": "s"}
ENVIRONMENT |= {"ADMIN_TOKEN": "a"}
ENVIRONMENT |= {"KAFKA_PASSWORD": "p", "KAFKA_SECRET": "s", "REGISTRY_PASSWORD": "r", "ELASTIC_API_KEY": "k"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(text: str, language: str) -> list[str]:
    """The content of the fenced blocks of that language, a regular expression."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [content for name, content in fences if re.fullmatch(language, name)]


def links(text: str) -> list[str]:
    """The targets of links outside of fenced blocks."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE))


def commands() -> dict[str, set[str]]:
    """Every command, "dead-letters list" and the like, and its options."""
    found: dict[str, set[str]] = {}

    def add(name: str, command: Any) -> None:
        found[name] = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for inner, nested in getattr(command, "commands", {}).items():
            add(f"{name} {inner}".strip(), nested)

    add("", typer.main.get_command(cli))
    return found


def invocations(text: str) -> Iterator[str]:
    """What is said after `btfeed` in code, in line or in a block."""
    for code in re.findall(r"`([^`\n]+)`", text) + [
        line for block in blocks(text, "(?:sh)?") for line in block.splitlines()
    ]:
        for command in code.partition("#")[0].split(" | "):
            match = re.match(r"(?:\S*/)?btfeed (.*)", command.strip())
            if match:
                yield match[1]


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")


def settings_of(table: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in table.items():
        yield path + key
        if isinstance(value, dict):
            yield from settings_of(value, f"{path}{key}.")


@pytest.mark.slow
def test_tables_made_from_the_code_are_up_to_date() -> None:
    """Settings, metrics, modules, the record and the dashboards in deploy/ are what the code says."""
    command = [sys.executable, "-m", "docs.generate", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode or result.stderr:
        pytest.fail(f"python -m docs.generate --check: {result.stderr}", pytrace=False)


def test_what_is_missing_from_a_table_is_said() -> None:
    """A key without a meaning, by the class that has it, and a table that does not exist, with the name that was meant."""

    class Undocumented(Settings):
        """Keys of a test.

        one  the first
        """

        one: int = 1
        two: int = 2

    with pytest.raises(NotDocumented, match=r"test_docs.*Undocumented: its docstring does not explain the key two; add"):
        list(settings_table(Undocumented))
    with pytest.raises(NotDocumented, match=r"no table for <!-- generated: metric -->; did you mean 'metrics'\?"):
        tables_filled_in("<!-- generated: metric -->\n<!-- end -->", {"metrics": metrics_table})


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading in it."""
    for target in links(TEXT[page]):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), target


@each_page
def test_commands_and_options_exist(page: Path) -> None:
    """Each `btfeed ...` in code is one that can be typed."""
    known = commands()
    for invocation in invocations(TEXT[page]):
        words = invocation.split()
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        name = "" if name.startswith("-") else name
        assert name in known, invocation
        options = {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)}
        assert options <= known[name], invocation


def test_every_command_is_in_the_readme() -> None:
    """Or the group that it belongs to."""
    named = {invocation.split()[0] for invocation in invocations(TEXT[ROOT / "README.md"])}
    assert named == {name.split()[0] for name in commands() if name}


@each_page
def test_toml_is_a_configuration(page: Path) -> None:
    """Each block can be read as it stands; those on the pages of profiles and flows are profiles and definitions."""
    for block in blocks(TEXT[page], "toml"):
        if page.name == "generate.md":
            profile.parse(tomllib.loads(block))
        elif page.name == "flow.md":
            definition.parse(tomllib.loads(block))
        else:
            config.parse(tomllib.loads(block), ENVIRONMENT)


def test_the_example_configuration_is_one() -> None:
    """What deploy/ offers is accepted, with what the environment has to hold."""
    found = config.load(ROOT / "deploy" / "btfeed.toml", {"BTFEED_PASSWORD": "p"})
    assert sorted(found.sinks) == ["archive", "visits"]


@each_page
def test_keys_in_running_text_exist(page: Path) -> None:
    """`receiver.max_body` and the like, wherever they are named."""
    with_all = config.parse(tomllib.loads('[sinks.x]\ntype = "file"'), {})
    known = set(settings_of({name: getattr(with_all, name).model_dump() for name in ("receiver", "admin", "journal")}))
    known |= set(settings_of({"journal": dict.fromkeys(journals.settings_of("kafka").model_fields)}))
    known |= set(settings_of({"record": with_all.record.model_dump(), "validation": with_all.validation.model_dump()}))
    known |= set(settings_of({"delivery": with_all.sinks["x"].common.delivery.model_dump()}))
    text = TEXT[page]
    if page.name == "status.md":  # has fields with such names, see tests/admin/test_status_page.py
        text = re.sub(r"^\| `\S+` \|", "", text, flags=re.MULTILINE)
    for name in re.findall(r"`((?:receiver|admin|journal|validation|record|delivery)\.[a-z_.]+)`", text):
        assert name in known or name.endswith((".py", ".db")), name


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_metrics_in_running_text_exist(page: Path) -> None:
    """By the name that Prometheus shows; the changelog also names those that were renamed."""
    metrics = Metrics()
    _ = metrics.kafka_journal  # makes them
    known = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    known |= {family.name for family in metrics.registry.collect()}
    known |= {f"{family.name}_total" for family in metrics.registry.collect() if family.type == "counter"}
    assert set(re.findall(r"`(btfeed_[a-z_]+)`", TEXT[page])) <= known


@each_page
def test_files_and_modules_named_exist(page: Path) -> None:
    """Paths in code below the folders of the project."""
    named = re.findall(r"`((?:btfeed|sinks|tests|docs|deploy|examples|proto|benchmarks)/[\w./-]+)`", TEXT[page])
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    """By links, page after page."""
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in TEXT and page not in reached:
            reached.add(page)
            waiting += [(page.parent / target.partition("#")[0]).resolve() for target in links(TEXT[page])]
    assert reached == set(PAGES)


def test_the_readme_is_short() -> None:
    """It can be read in five minutes; the details are in docs/."""
    assert len(TEXT[ROOT / "README.md"].splitlines()) <= 150


@each_page
def test_tests_named_exist(page: Path) -> None:
    """`test_name` behind `tests/FILE.py`: that file has a test of that name."""
    source = ""
    for file, name in re.findall(r"`(?:(tests/[\w/]+\.py)|(test_\w+))`", TEXT[page]):
        if file:
            source = (ROOT / file).read_text(encoding="utf-8")
        else:
            assert re.search(rf"^(?:async )?def {name}\b", source, re.MULTILINE), name


def test_every_target_of_make_that_is_named_exists() -> None:
    """`make run` and the others."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for text in TEXT.values():
        assert set(re.findall(r"(?:`|^)make (?:-C \S+ )?([a-z][a-z-]*)", text, re.MULTILINE)) <= targets


def test_reasons_of_refusals_are_those_of_the_receiver() -> None:
    """Each reason that the code gives is in the table, and no other one."""
    folders = (ROOT / "btfeed" / name for name in ("http", "receiving"))
    source = "".join(path.read_text(encoding="utf-8") for folder in folders for path in folder.glob("*.py"))
    given = re.findall(r'(?:_time_out, |\.lost\(|_refuse\(request, |\.abort\(|Rejected\(\s*)"(\w+)"', source)
    given += re.findall(r'"(\w+)", \d{3}\)', source)
    assert {*given, "bad_http", "cut_off"} == REASONS.keys()


def test_log_lines_are_those_that_are_written() -> None:
    """Each as it stands in the code."""
    sources = [path for package in ("btfeed", "sinks") for path in (ROOT / package).rglob("*.py")]
    source = "".join(path.read_text(encoding="utf-8") for path in sources)
    section = TEXT[ROOT / "docs" / "logs.md"].partition("## Log lines")[2]
    lines = [
        line for cell in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE) for line in re.findall(r"`([^`]+)`", cell)
    ]
    assert len(lines) > 10
    for line in lines:
        assert f'"{line}"' in source, line


def test_log_lines_are_documented() -> None:
    """Those above DEBUG, if they stand in the call that logs them."""
    section = TEXT[ROOT / "docs" / "logs.md"].partition("## Log lines")[2]
    found = set()
    for path in [path for package in ("btfeed", "sinks") for path in (ROOT / package).rglob("*.py")]:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match call:
                case ast.Call(ast.Attribute(logger, "info" | "warn" | "warning" | "error" | "exception"), [first, *_]):
                    if ast.unparse(logger).endswith(("log", "warnings")) and isinstance(first, ast.Constant):
                        found.add(str(first.value))
    assert len(found) > 30
    assert {line for line in found if f"`{line}`" not in section} == set()


def test_the_record_shown_is_the_one_that_is_made() -> None:
    """Field by field, of the sample post."""
    (shown,) = (json.loads(block) for block in blocks(TEXT[ROOT / "docs" / "record.md"], "json"))
    body = posts.sample_purepath()
    mapped = create_mapper(RecordSettings(), ValidationSettings()).map(body, digest(body))
    assert list(shown.items()) == list(json.loads(mapped.batch.body(0)).items())


def test_the_record_in_the_readme_is_one_of_the_web_shop() -> None:
    """Field by field."""
    (shown,) = (json.loads(block) for block in blocks(TEXT[ROOT / "README.md"], "json"))
    made = []
    for post in generate(GenerateOptions(profile.load("web-shop"), seed=1, visits=1)):
        made += create_mapper(RecordSettings(), ValidationSettings()).map(post.body, digest(post.body)).batch.bodies
    assert list(shown.items()) in [list(json.loads(record).items()) for record in made]


def test_queries_name_fields_that_records_have() -> None:
    """Those of the page on Dynatrace."""
    queries = blocks(TEXT[ROOT / "docs" / "sinks" / "bizevents.md"], "dql")
    named = set().union(*map(dql.fields, queries))
    assert len(named) > 5
    assert named <= {field.name for field in RECORD_FIELDS}


BRIDGE = """
name application systemProfile server type purePathId startTime endTime dimensions measures failed visitId actionName
apdex converted query url user responseTime duration cpuTime execTime suspensionTime syncTime waitTime nrOfActions
clientFamily clientIP continent country city failedActions clientErrors exitActionFailed bounce osFamily osName
connectionType convertedBy
"""
"""The keys that the Flume bridge's JSON serializer writes."""


def test_every_name_of_the_bridge_leads_to_a_field() -> None:
    """In the table of differences on the page, or as the feed's own name in the field table; and that field exists."""
    section = TEXT[ROOT / "docs" / "coming-from.md"].partition("## The names of fields")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    differing = {name for old, *_ in rows for name in re.findall(r"`(\w+)`", old)}
    assert set(BRIDGE.split()) <= differing | {name for field in FIELDS for name in (field.name, field.older_name) if name}
    new = {name for _, record, *_ in rows for name in re.findall(r"`([a-z]+\.[a-z_.]+)`", record)}
    known = {field.name for field in RECORD_FIELDS}
    assert {name for name in new if not name.startswith(("appmon.dimension.", "appmon.measure."))} <= known


@pytest.mark.parametrize("name", [name for name in dir(test_sink_contract) if name.startswith("test_")])
async def test_the_sink_of_the_guide_passes_the_contract(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its module and its driver, pasted as they are shown, through each test that every sink has to pass."""
    module, driver = blocks(TEXT[ROOT / "docs" / "sinks" / "writing-a-sink.md"], "python")
    for path, code in (("sinks.spool", module), ("driver", driver)):
        monkeypatch.setitem(sys.modules, path, ModuleType(path))
        exec(compile(code, f"{path}.py", "exec"), sys.modules[path].__dict__)
    assert isinstance(sys.modules["sinks.spool"].SINK, SinkType)
    test = getattr(test_sink_contract, name)
    more = {"seed": 1} if "seed" in signature(test).parameters else {}
    if "driver" in signature(test).parameters:
        await test(sys.modules["driver"].DRIVERS["directory"](tmp_path), **more)


@pytest.mark.parametrize("name", sinks.types())
def test_every_sink_has_a_page(name: str) -> None:
    """With the type's name."""
    page = f"docs/sinks/{name}.md"
    assert (ROOT / page).exists(), f'the sink type {name!r} has no page: add {page}; see "Add a sink" in CONTRIBUTING.md'


def test_every_table_of_the_configuration_is_documented() -> None:
    """Each has a generated table on the page on the configuration, on that on profiles, or on that on flows."""
    assert_generated("configuration.md", {f"settings {name}" for name in sections()})
    assert_generated("generate.md", {f"profile{name}" for name in tables_of(profile.Profile)})
    assert_generated("flow.md", {f"flow{name}" for name in tables_of(definition.Definition)} | {"flow numbers"})


@pytest.mark.parametrize("name", sinks.types())
def test_every_key_of_a_sink_is_documented(name: str) -> None:
    """Its tables with all of their keys, and its defaults of [sinks.NAME.delivery] if it has any."""
    made = sink_blocks(name)
    for table in made.values():
        list(table())  # raises NotDocumented
    assert_generated("configuration.md", set(made))


def assert_generated(page: str, blocks: set[str]) -> None:
    """The page has these generated blocks."""
    missing = sorted(blocks - set(re.findall(r"<!-- generated: (.+?) -->", TEXT[ROOT / "docs" / page])))
    assert not missing, f"add to docs/{page}, with `<!-- end -->` below: <!-- generated: {missing[0]} -->"


@pytest.mark.parametrize("name", sinks.types())
def test_every_sink_says_how_often_a_record_is_delivered(name: str) -> None:
    """In a row of the page on reliability, which links the sink's page."""
    section = (
        TEXT[ROOT / "docs" / "reliability.md"].partition("## How often is a record delivered?")[2].partition("\n## ")[0]
    )
    assert f"](sinks/{name}.md" in section, f"add a row for {name} to docs/reliability.md, How often is a record delivered?"


def test_the_changelog_names_the_version() -> None:
    """What is not released yet stands under Unreleased."""
    assert "\n## [Unreleased]\n" in TEXT[ROOT / "CHANGELOG.md"]
