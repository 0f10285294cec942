"""btfeed flow: options, output, exit status and messages. What the numbers are is tested in tests/flow."""

import csv
import errno
import json
import os
import signal
import subprocess
import tomllib
from pathlib import Path

import pytest

from btfeed.flow.definition import parse, shipped
from btfeed.traffic import profile as profiles
from tests.commands.test_imports import imported
from tests.commands.test_main import invoke, write_config
from tests.flow import records
from tests.support.harness import BTFEED, DEADLINE, UNINTERRUPTED, until

EVIL = "\x1b[2J\N{RIGHT-TO-LEFT OVERRIDE}"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of 80 visits of the web shop, in less than an hour."""
    return records.write(tmp_path_factory.mktemp("shop") / "shop.ndjson", "web-shop", visits=80, seed=3)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What commands read, in the working directory, and what is in it: a definition, records, a folder of tables."""
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "own.toml", shipped()["web-shop"])
    record = {"event.id": "1", "event.type": "Product page viewed", "event.provider": "web-shop"}
    record |= {"appmon.visit.id": "one", "timestamp": "2026-01-05T00:00:00.000Z"}
    (tmp_path / "q.ndjson").write_text(json.dumps(record) + "\n")
    (tmp_path / "q.json").write_text(json.dumps(record) + "\n")
    (tmp_path / "soft.html").symlink_to("q.ndjson")
    (tmp_path / "hard.txt").hardlink_to("q.ndjson")
    for folder, name in (("tables", "steps.csv"), ("drawn", "funnel.svg")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).hardlink_to("q.ndjson")
    return {name: (tmp_path / name).read_bytes() for name in ("own.toml", "q.ndjson", "q.json")}


@pytest.mark.parametrize(
    "out",
    [
        "q.json", "./q.json", "soft.html", "hard.txt", "tables", "q.ndjson --format text", "q.ndjson --format html",
        "drawn --format svg", "own.toml --format json",
    ],
)  # fmt: skip
def test_no_report_is_written_to_a_file_that_is_read(out: str, inputs: dict[str, bytes]) -> None:
    """Whatever it is called, and in every form."""
    result = invoke("flow", "report", "own.toml", "q.ndjson", "q.json", "--out", *out.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is also read (" in result.stderr
    assert {name: Path(name).read_bytes() for name in inputs} == inputs


def test_no_report_is_written_to_a_file_of_a_folder_that_is_read(inputs: dict[str, bytes]) -> None:
    """A new file in it is none; no draft is written to the profile that it is made of."""
    result = invoke("flow", "report", "web-shop", ".", "--out", "q.json")
    assert (result.exit_code, "q.json is also read (" in result.stderr) == (2, True)
    assert {name: Path(name).read_bytes() for name in inputs} == inputs
    assert invoke("flow", "report", "web-shop", ".", "--out", "web-shop", "--format", "text").exit_code == 0
    write_config(Path("profile.toml"), profiles.shipped()["web-shop"])
    result = invoke("flow", "init", "--profile", "profile.toml", "-o", "profile.toml")
    assert (result.exit_code, "profile.toml is also read (" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "files, --sink NAME, or --elasticsearch URL"),
        (["x.ndjson", "--sink", "files"], "name one of them, not several"),
        (["x.ndjson", "--index", "a"], "--index: only useful with --elasticsearch"),
        (["--elasticsearch", "localhost:9200"], "--elasticsearch: invalid URL"),
        (["--elasticsearch", "http://u:SECRET@localhost:9200"], "--elasticsearch: invalid URL"),
        (["--elasticsearch", "http://localhost:9200", "--user", "name"], "--user: write it as NAME:PASSWORD"),
        (["x.ndjson", "--last", "1h", "--from", "1h"], "--last: it says where the period begins and ends"),
        (["x.ndjson", "--last", "soon"], "--last: invalid time 'soon'"),
        (["x.ndjson", "--last", "1w"], "2s, 1m30s or 7d"),
        (["x.ndjson", "--from", "tomorrow"], "--from: invalid time 'tomorrow'"),
        (["x.ndjson", "--from", "2026-01-02", "--to", "2026-01-01"], "--to: it must be after --from"),
        (
            ["x.ndjson", "--compare", "yesterday"],
            "--compare: 'yesterday' is not previous, week, none, or a time such as 7d",
        ),
        (["x.ndjson", "--split", "sgment"], "--split: there is no dimension 'sgment': the definition has segment"),
        (["x.ndjson", "--where", "segment"], "--where: write it like segment=gold"),
        (["x.ndjson", "--where", "size=1"], "--where: there is no dimension 'size'"),
        (["x.ndjson", "--compare", "0h"], "--compare: the period would be compared with itself"),
        (["x.ndjson", "--last", "100000d"], "--last: '100000d' is too long: a time is at most 36500d"),
        (["x.ndjson", "--out", ""], "--out: is empty: name a file, a folder, or - for standard output"),
        (["x.ndjson", "--out", "-", "--format", "csv"], "--format: csv needs a folder: add --out"),
        (["x.ndjson", "--out", "x.pdf"], "--out: .pdf says of no format what to write"),
        (["x.ndjson", "--last", "0s"], "--last: a period of no time has no flows"),
        (["x.ndjson", "--format", "csv"], "--format: csv needs a folder: add --out"),
        (["x.ndjson", "--out", "x.csv"], "--out: csv is a folder of several files: give it a name without .csv"),
        (["x.ndjson", "--out", "x.svg"], "--out: svg is a folder of several files: give it a name without .svg"),
        (["x.ndjson", "--memory", "lots"], "--memory: invalid size 'lots'"),
    ],
)
def test_a_wrong_option_is_exit_2(arguments: list[str], told: str) -> None:
    """With the option, what is wrong with it, and what would be right; before anything is read."""
    result = invoke("flow", "report", "web-shop", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert told in " ".join(result.stderr.replace("│", " ").split())
    assert "SECRET" not in result.stderr


def test_all_faults_of_a_definition_are_told(tmp_path: Path) -> None:
    """Each with its place, and exit status 2; so for a definition that does not exist."""
    path = write_config(tmp_path / "own.toml", 'name = "x"\nstep = 1\n[[steps]]\nname = "a"\n')
    for command in (["report"], ["list"], ["check"], ["trace"]):
        result = invoke("flow", *command, path, *(["1"] if command == ["trace"] else []), "x.ndjson")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"invalid definition {path}:\n")
        assert "step: unknown key; did you mean steps?" in result.stderr
        assert "step a: event: is required, unless match has conditions" in result.stderr
    assert "not a built-in definition (flight-search, loan-application, web-shop)" in invoke("flow", "check", "shop").stderr


@pytest.mark.slow
def test_results_go_where_they_are_wanted(shop: Path, tmp_path: Path) -> None:
    """The form by --format, else by the ending of --out; what is written is told on stderr."""
    first = {"html": "<!doctype html>", "json": "{\n", "text": "Web shop order   as of "}
    for form, begin in first.items():
        assert invoke("flow", "report", "web-shop", shop, "--format", form).stdout.startswith(begin)
    for name, form in (("a.html", "html"), ("a.json", "json"), ("a.txt", "text")):
        result = invoke("flow", "report", "web-shop", shop, "--out", tmp_path / name)
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"wrote {tmp_path / name}\n")
        assert (tmp_path / name).read_text().startswith(first[form])
    assert invoke("flow", "report", "web-shop", shop, "--out", tmp_path / "folder").exit_code == 0
    steps = list(csv.DictReader((tmp_path / "folder" / "steps.csv").read_text().splitlines()))
    assert steps[0]["reached"] == "80"
    assert invoke("flow", "report", "web-shop", shop, "--out", tmp_path / "drawn", "--format", "svg").exit_code == 0
    assert "80" in (tmp_path / "drawn" / "funnel.svg").read_text()
    assert invoke("flow", "report", "web-shop", shop, "--out", "-").stdout.startswith(first["text"])
    result = invoke("flow", "report", "web-shop", shop, "--out", tmp_path / "missing" / "a.html")
    assert (result.exit_code, result.stderr) == (1, f"can't write {tmp_path}/missing/a.html: No such file or directory\n")


@pytest.mark.slow
@pytest.mark.parametrize("out", ["a.json", "a.html", "a.txt", "tables", "drawn --format svg"])
def test_a_full_disk_leaves_the_old_report(out: str, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every form. The exit status is 1, and the message has the name of a file that was wanted."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.chdir(tmp_path)
    assert invoke("flow", "report", "web-shop", shop, "--out", *out.split()).exit_code == 0
    old = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(os, "fsync", full)
    result = invoke("flow", "report", "web-shop", shop, "--last", "5m", "--out", *out.split())
    assert (result.exit_code, result.stderr.endswith(": No space left on device\n")) == (1, True)
    assert result.stderr.startswith(f"can't write {out.split()[0]}")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == old


def test_the_last_hours_are_counted_from_the_newest_record(shop: Path) -> None:
    """Or from --as-of; the end includes that moment."""
    whole = json.loads(invoke("flow", "report", "web-shop", shop, "--format", "json").stdout)
    found = json.loads(invoke("flow", "report", "web-shop", shop, "--format", "json", "--last", "20m").stdout)
    assert found["as_of"] == whole["as_of"]
    assert 0 < found["counts"]["started"] < whole["counts"]["started"] == 80
    early = ("--as-of", "2026-01-05T00:10", "--last", "10m")
    found = json.loads(invoke("flow", "report", "web-shop", shop, "--format", "json", *early).stdout)
    assert (found["period"]["from"], found["period"]["to"]) == ("2026-01-05T00:00:00.001Z", "2026-01-05T00:10:00.001Z")


def test_flows_are_listed_and_traced(shop: Path) -> None:
    """One a line, as text or JSON; records as they are; and what is wrong is told."""
    listed = invoke("flow", "list", "web-shop", shop, "--state", "converted", "--limit", "3", "--sort", "value", "--json")
    flows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [flow["state"] for flow in flows] == ["converted"] * 3
    assert [flow["value"] for flow in flows] == sorted((flow["value"] for flow in flows), reverse=True)
    assert listed.stderr == "there may be more than 3: see --limit\n"
    table = invoke("flow", "list", "web-shop", shop, "--state", "converted", "--limit", "3", "--sort", "value").stdout
    assert [line.split()[0] for line in table.splitlines()[1:]] == [flow["id"] for flow in flows]
    flow = flows[0]["id"]
    traced = invoke("flow", "trace", "web-shop", flow, shop).stdout
    assert traced.startswith(f"flow {flow}   as of ")
    assert "purepath" in traced
    assert "Order received" in traced.splitlines()[-1]
    raw = [json.loads(line) for line in invoke("flow", "trace", "web-shop", flow, shop, "--records").stdout.splitlines()]
    assert {record["event.category"] for record in raw} == {"purepath", "user_action", "visit"}
    assert json.loads(invoke("flow", "trace", "web-shop", flow, shop, "--json").stdout)["steps"]["Cart"].endswith("Z")
    result = invoke("flow", "trace", "web-shop", "4711", shop)
    assert (result.exit_code, result.stderr) == (1, "no record has the id 4711\n")
    result = invoke("flow", "list", "web-shop", shop, "--idle", "300d")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no flow fits these options\n")
    result = invoke("flow", "list", "web-shop", shop, "--state", "gone", "--at", "Cart")
    assert (result.exit_code, "'gone' is not one of converted, late, ended, lost, open" in result.stderr) == (2, True)


def test_records_can_t_control_the_terminal(tmp_path: Path) -> None:
    """Whatever their texts are."""
    record = {
        "event.id": "1", "event.type": "Product page viewed", "event.provider": "web-shop", "appmon.visit.id": EVIL,
        "timestamp": "2026-01-05T00:00:00.000Z", "appmon.dimension.customer_segment": EVIL,
    }  # fmt: skip
    (tmp_path / "a.ndjson").write_text(json.dumps(record) + "\n")
    for command in (["report", "web-shop", "--split", "segment"], ["list", "web-shop"], ["trace", "web-shop", EVIL]):
        result = invoke("flow", *command, tmp_path / "a.ndjson")
        assert result.exit_code == 0, result.stderr
        assert not set(EVIL[:1] + EVIL[-1:]) & set(result.stdout)


def test_a_newline_in_an_id_begins_no_line(tmp_path: Path) -> None:
    """It is an escape, in lists, reports and traces; a trace takes it as it is shown, too."""
    record = {
        "event.id": "1", "event.type": "Product page viewed", "event.provider": "web-shop", "appmon.visit.id": "a\nb\rc",
        "timestamp": "2026-01-05T00:00:00.000Z",
    }  # fmt: skip
    (tmp_path / "a.ndjson").write_text(json.dumps(record) + "\n")
    traces = [["trace", "web-shop", name] for name in ("a\nb\rc", "a\\u000ab\\u000dc")]
    for command in (["list", "web-shop"], *traces, ["report", "web-shop", "--lists", "1"]):
        shown = invoke("flow", *command, tmp_path / "a.ndjson").stdout
        assert "a\\u000ab\\u000dc" in shown
        assert not any(line.startswith("b") for line in shown.splitlines())


def test_a_trace_has_one_form() -> None:
    """Records are JSON already."""
    result = invoke("flow", "trace", "web-shop", "1", "x.ndjson", "--json", "--records")
    assert (result.exit_code, "--json: prints the whole flow" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("number", "btfeed"),
    [(number, BTFEED) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    + [(number, UNINTERRUPTED) for number in (signal.SIGTERM, signal.SIGHUP)],
)
def test_a_signal_leaves_no_records(number: int, btfeed: list[str], tmp_path: Path) -> None:
    """It ends a wait for standard input. What was copied is removed, the status is that of the signal, and nothing is
    said, whether it comes during a read or just before."""
    command = [*btfeed, "flow", "report", "web-shop", "-", "--temp", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write(b"{" + b" " * 2**21)
        process.stdin.flush()
        until(lambda: [path for path in tmp_path.rglob("stdin") if path.stat().st_size], "records are copied")
        process.send_signal(number)
        until(lambda: process.poll() is not None, "the process has ended")
        assert (process.returncode, process.stderr.read()) == (-number, b"")
    assert list(tmp_path.iterdir()) == []


def test_standard_output_that_can_t_be_written_is_named(inputs: dict[str, bytes]) -> None:
    """As by every command: App tells it."""
    command = [*BTFEED, "flow", "report", "web-shop", "q.ndjson", "--format", "json"]
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=DEADLINE, check=False)
    assert (result.returncode, result.stderr) == (1, b"standard output: No space left on device\n")


def test_check_tells_what_does_not_fit(shop: Path, tmp_path: Path) -> None:
    """With exit status 3, and what to do; a definition that fits is exit status 0."""
    assert invoke("flow", "check", "web-shop", shop).exit_code == 0
    assert invoke("flow", "check", "web-shop").exit_code == 0
    text = shipped()["web-shop"].replace('back_to = ["Product page"]', "").replace("Checkout begun", "Checkout")
    text = text.replace('ends = { "event.category" = "visit" }', 'ends = { "event.category" = "end" }')
    text = text.replace('step = "Order received"', "")
    own = write_config(tmp_path / "own.toml", text + '[[steps]]\nname = "Again"\nevent = "Cart viewed"\noptional = true\n')
    lines = shop.read_bytes()
    (tmp_path / "twice.ndjson").write_bytes(lines + lines[: lines.index(b"\n", len(lines) // 2) + 1] + b"damaged\n")
    result = invoke("flow", "check", own, tmp_path / "twice.ndjson")
    assert result.exit_code == 3
    assert "Checkout begun" in result.stdout
    for told in (
        "step Checkout: no record fits it",
        "of Cart and Again at once",
        "ends: no record fits it",
        "of records that are there already",
        "1 line that can't be read",
        "of the ways are not in the definition",
    ):
        assert told in result.stderr, told
    own = write_config(tmp_path / "twice.toml", shipped()["web-shop"].replace('step = "Order received"', ""))
    assert (
        "value.field is on records of several types (Order received, Web shop visits)"
        in invoke("flow", "check", own, shop).stderr
    )


def test_fields_that_no_record_has_are_told(shop: Path, tmp_path: Path) -> None:
    """With the one that is meant, by `check`; by a report in its notes. Of steps, the name is told."""
    text = shipped()["web-shop"].replace("appmon.measure.revenue", "measure.revenu")
    text = text.replace("appmon.dimension.customer_segment", "customer_segmnt").replace("geo.country.name", "land")
    text = text.replace('"Checkout begun"', '"Checkout begun"\nmatch = { "event.provder" = { not = "x" } }')
    own = write_config(tmp_path / "own.toml", text + '[exceptions]\nwhen = { "event.outcom" = "failure" }\n')
    missing = {
        "value.field": ("measure.revenu", ": did you mean appmon.measure.revenue?"),
        "dimensions.segment": ("customer_segmnt", ": did you mean appmon.dimension.customer_segment?"),
        "dimensions.country": ("land", ": correct it, or leave it out"),
        "step Checkout": ("event.provder", ": did you mean event.provider?"),
        "exceptions.when": ("event.outcom", ": did you mean event.outcome?"),
    }
    result = invoke("flow", "check", own, shop)
    report = invoke("flow", "report", own, shop).stdout
    assert result.exit_code == 3
    for where, (name, told) in missing.items():
        assert f"{where}: no record has the field {name}{told}\n" in result.stderr
        assert f"note: {where}: no step, exception or end has the field {name}; flow check" in " ".join(report.split())
    assert result.stderr.count("no record has the field") == len(missing)
    result = invoke("flow", "report", own, shop, "--format", "json")
    assert json.loads(result.stdout)["source"]["missing"] == sorted(name for name, _ in missing.values())
    assert "has the field" not in invoke("flow", "report", "web-shop", shop).stdout


def test_a_definition_is_shown(tmp_path: Path) -> None:
    """As it is, so that it can be the start of another."""
    for name in shipped():
        assert invoke("flow", "check", name, "--show").stdout == shipped()[name]
    own = write_config(tmp_path / "own.toml", "# mine\n" + shipped()["web-shop"])
    assert invoke("flow", "check", own, "--show").stdout == own.read_text()


@pytest.mark.parametrize("name", profiles.shipped())
def test_a_draft_fits_the_traffic_of_its_profile(name: str, tmp_path: Path) -> None:
    """It says the steps, what is optional, repeats and goes back; `check` has nothing to object to."""
    result = invoke("flow", "init", "--profile", name, "-o", tmp_path / "own.toml")
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"btfeed flow report {name} SOURCE" in result.stderr
    path = records.write(tmp_path / "a.ndjson", name, visits=200, seed=4)
    result = invoke("flow", "check", tmp_path / "own.toml", path)
    assert result.exit_code == 0, result.stderr
    result = invoke("flow", "init", "--profile", name, "-o", tmp_path / "own.toml")
    assert (result.exit_code, "is left as it is" in result.stderr) == (1, True)


def test_records_of_another_application_are_told_first(shop: Path) -> None:
    """With what they have, in a report as in a check, which advises nothing else then."""
    told = "where: no record has event.provider = loans; there is web-shop: take other records"
    report = invoke("flow", "report", "loan-application", shop)
    assert (report.exit_code, report.stdout.count("note: ")) == (0, 1)
    assert f"note: {told}" in report.stdout
    check = invoke("flow", "check", "loan-application", shop)
    assert (check.exit_code, check.stderr.count("\n")) == (3, 1)
    assert check.stderr.startswith(told)


def test_a_draft_takes_any_name(tmp_path: Path) -> None:
    """Texts of a profile are texts of the definition."""
    text = profiles.shipped()["web-shop"].replace('"Checkout"', '"Check \\"out\\" \\\\ \\u007f é"')
    result = invoke("flow", "init", "--profile", write_config(tmp_path / "own.toml", text))
    assert result.exit_code == 0, result.stderr
    assert parse(tomllib.loads(result.stdout)).steps[3].name == 'Check "out" \\ \x7f é'


def test_help_imports_neither_duckdb_nor_elasticsearch(tmp_path: Path) -> None:
    """It starts fast, and without the extra."""
    assert not {"duckdb", "elasticsearch", "btfeed.flow.engine", "jinja2"} & imported(tmp_path, "flow", "report", "--help")
