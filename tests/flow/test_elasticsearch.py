"""One traffic, delivered by btfeed's own sinks into all forms of files and into both versions of Elasticsearch: the reports
are equal to the byte, but for what they say of their source."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import Result

from btfeed.flow import elastic
from tests.commands.test_main import invoke
from tests.flow import traffic
from tests.servers.elasticsearch import EIGHT, NINE, PASSWORD, USER, Elasticsearch, shared
from tests.servers.stand_in import StandIn
from tests.support.harness import Server

pytestmark = pytest.mark.elasticsearch
PREFIX = "flows"
FORMS = ("plain", "gzip", "zstd", "avro", "parquet", "posts", "sink plain", "nine", "eight", "sink nine")


class World:
    """The traffic in all places."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.nodes = {"nine": shared(NINE), "eight": shared(EIGHT, secured=True)}
        tables = [traffic.config(directory / "sinks")]
        for name, node in self.nodes.items():
            auth = f'ca = "{node.ca}"\nauth = {{ basic = {{ username = "{USER}", password = "{PASSWORD}" }} }}\n'
            tables.append(
                f'[sinks.{name}]\ntype = "elasticsearch"\nhosts = ["{node.url}"]\n'
                f'index = "{PREFIX}-{{category}}-{{date}}"\n' + (auth if node.secured else "")
            )
        self.posts = traffic.posts(directory / "all.btposts")
        self.server = Server(directory, "\n".join(tables))
        with self.server:
            traffic.deliver(self.server, self.posts)
        self.parquet = traffic.parquet(directory / "sinks" / "plain", directory / "all.parquet")
        for node in self.nodes.values():
            node.must("POST", f"/{PREFIX}-*/_refresh")

    def source(self, form: str) -> list[object]:
        """The arguments that name it."""
        if form.startswith("sink "):
            return ["--sink", form.removeprefix("sink "), "-c", self.server.config]
        if form in self.nodes:
            return [*self.elasticsearch(self.nodes[form]), "--index", f"{PREFIX}-*"]
        if form in traffic.SINKS:
            return [self.directory / "sinks" / form]
        return [self.posts if form == "posts" else self.parquet]

    def elasticsearch(self, node: Elasticsearch) -> list[object]:
        (self.directory / "user").write_text(f"{USER}:{PASSWORD}\n")
        credentials = ["--user", f"@{self.directory / 'user'}", "--ca", node.ca] if node.secured else []
        return ["--elasticsearch", node.url, *credentials]

    def close(self) -> None:
        for node in self.nodes.values():
            node.ask("DELETE", f"/{PREFIX}-*")
            node.ask("DELETE", f"/_index_template/btfeed-{PREFIX}*")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
    yield made
    made.close()


def report(world: World, form: str, *more: object) -> dict[str, Any]:
    result = invoke("flow", "report", "web-shop", *world.source(form), "--format", "json", *OPTIONS, *more)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


OPTIONS = (
    "--from", "2026-01-05T01:00", "--to", "2026-01-05T02:00", "--as-of", "2026-01-05T02:01", "--compare", "30m",
    "--split", "segment", "--split", "country,browser", "--lists", "5",
)  # fmt: skip


@pytest.fixture(scope="module")
def expected(world: World) -> dict[str, Any]:
    """The report of plain NDJSON."""
    return report(world, "plain")


def test_the_report_has_something_of_everything(expected: dict[str, Any]) -> None:
    """So that equal reports mean something."""
    assert expected["counts"]["converted"] > 5
    assert expected["counts"]["open"] > 0
    assert expected["compare"]["counts"]["started"] > 5
    assert expected["exceptions"]["exceptions"] > 0
    assert len(expected["splits"]["country,browser"]) > 5
    assert expected["lists"]["open_longest_idle"]


@pytest.mark.parametrize("form", FORMS[1:])
def test_reports_of_all_sources_are_equal(form: str, world: World, expected: dict[str, Any]) -> None:
    """To the byte, but for the source, and for that the records that matter are equally many."""
    found = report(world, form)
    for key in ("matched", "unreadable", "uncorrelated", "duplicates", "first", "last"):
        assert found["source"][key] == expected["source"][key]
    assert json.dumps(found | {"source": None}) == json.dumps(expected | {"source": None})


@pytest.mark.parametrize("form", ["nine", "eight"])
def test_traces_are_equal(form: str, world: World, expected: dict[str, Any]) -> None:
    """With the PurePaths behind the actions, out of two short queries."""
    flow = expected["lists"]["open_longest_idle"][0]["id"]
    options = ("--as-of", "2026-01-05T02:01", "--json")
    found, files = (
        json.loads(invoke("flow", "trace", "web-shop", flow, *world.source(each), *options).stdout)
        for each in (form, "plain")
    )
    for traced in (found, files):
        for record in traced["records"]:
            record["record"] = {key: value for key, value in json.loads(record["record"]).items() if key != "@timestamp"}
    assert [record["kind"] for record in files["records"]].count("purepath") > 0
    assert found == files


@pytest.mark.parametrize("form", ["nine", "eight"])
def test_lists_and_checks_read_elasticsearch(form: str, world: World) -> None:
    """The same as from files, event types that are no step included."""
    for command in (["list", "web-shop", "--state", "ended", "--as-of", "2026-01-06"], ["check", "web-shop"]):
        found, files = (invoke("flow", *command, *world.source(each)) for each in (form, "plain"))
        assert (found.exit_code, found.stdout) == (files.exit_code, files.stdout), found.stderr


@pytest.mark.parametrize("form", ["nine", "eight"])
def test_points_in_time_are_closed(form: str, world: World) -> None:
    """A node allows few of them."""
    report(world, form)
    stats = world.nodes[form].must("GET", "/_nodes/stats/indices/search")["nodes"]
    assert [node["indices"]["search"]["open_contexts"] for node in stats.values()] == [0]


@pytest.mark.parametrize("form", ["nine", "eight"])
def test_a_shard_that_can_t_be_read_gives_no_numbers(form: str, world: World) -> None:
    """One index of several has no node that may hold it."""
    node = world.nodes[form]
    setting = {"settings": {"index.routing.allocation.require._name": "no-such-node"}}
    node.must("PUT", f"/{PREFIX}-lost?wait_for_active_shards=0", setting)
    try:
        failed(invoke("flow", "report", "web-shop", *world.source(form)), node.url)
    finally:
        node.must("DELETE", f"/{PREFIX}-lost")


class Vanishing(StandIn):
    """Stands before a node, and is gone once `answers` searches of it were answered: connections break, and later ones too.

    pits  points in time that were opened and could not be closed
    """

    def __init__(self, node: Elasticsearch, answers: int) -> None:
        super().__init__()
        self.node, self.answers, self.pits = node, answers, list[str]()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        return app

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        search = request.path == "/_search"
        if self.answers <= 0:
            assert request.transport
            request.transport.abort()
            raise web.HTTPBadGateway
        self.answers -= search
        body = await request.json() if request.can_read_body else None
        status, reply = await asyncio.to_thread(self.node.fetch, request.method, request.raw_path, body)
        if request.path.endswith("/_pit"):
            self.pits.append(json.loads(reply)["id"])
        headers = {"X-Elastic-Product": "Elasticsearch", "Content-Type": "application/json"}
        return web.Response(body=reply, status=status, headers=headers)


def test_a_node_that_goes_away_in_the_middle_gives_no_numbers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After three pages of many: what has come is a part of the data."""
    monkeypatch.setattr(elastic, "PAGE", 50)
    node = world.nodes["nine"]
    with Vanishing(node, answers=3) as front:
        failed(invoke("flow", "report", "web-shop", "--elasticsearch", front.url, "--index", f"{PREFIX}-*"), front.url)
        assert (front.answers, len(front.pits)) == (0, 1)
    node.must("DELETE", "/_pit", {"id": front.pits[0]})


@pytest.mark.chaos
def test_a_node_that_is_killed_gives_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own, killed when its first page is there."""
    monkeypatch.setattr(elastic, "PAGE", 10)
    node, write = Elasticsearch(NINE), elastic._write

    def kill(*page: Any) -> None:
        write(*page)
        node.kill()

    try:
        node.start()
        record = {"event.type": "Product page viewed", "event.provider": "web-shop", "appmon.visit.id": "7"}
        lines = [{"index": {"_index": "killed"}}, record | {"timestamp": "2026-01-05T01:00:00.000Z"}] * 60
        node.must("POST", "/_bulk?refresh=true", "".join(json.dumps(line) + "\n" for line in lines).encode())
        monkeypatch.setattr(elastic, "_write", kill)
        failed(invoke("flow", "report", "web-shop", "--elasticsearch", node.url, "--index", "killed"), node.url, "connect")
    finally:
        node.remove()


def failed(result: Result, *told: str) -> None:
    """Exit 1, no numbers, and a message without secrets."""
    assert (result.exit_code, result.stdout) == (1, ""), result.stderr
    for each in told:
        assert each in result.stderr
    assert PASSWORD not in result.stderr


def test_wrong_credentials_are_told(world: World) -> None:
    """And missing privileges, each with what to do."""
    node = world.nodes["eight"]
    address = ["--elasticsearch", node.url, "--ca", node.ca, "--index", f"{PREFIX}-*"]
    failed(invoke("flow", "report", "web-shop", *address), "--user")
    failed(invoke("flow", "report", "web-shop", *address, "--user", "admin:wrong"), "401", "wrong")
    key = world.directory / "key"
    key.write_text(node.api_key(f"{PREFIX}-*", "create_doc"))
    failed(invoke("flow", "report", "web-shop", *address, "--api-key-file", key), "403", "the privilege read")
    key.write_text(node.api_key(f"{PREFIX}-*", "read"))
    result = invoke("flow", "report", "web-shop", *address, "--api-key-file", key)
    assert result.exit_code == 0, result.stderr


def test_no_index_is_no_empty_report(world: World) -> None:
    """But a mistake in the pattern."""
    node = world.nodes["nine"]
    for index in ("no-such-index", "no-such-*"):
        failed(
            invoke("flow", "report", "web-shop", *world.elasticsearch(node), "--index", index), "no index matches", index
        )


def test_texts_that_are_analyzed_are_found_too(world: World) -> None:
    """In an index without our template, where Elasticsearch makes `text` of texts, on which terms would fit nothing."""
    node = world.nodes["nine"]
    for number, event in enumerate(("Product page viewed", "Product added to cart")):
        record = {
            "event.id": str(number), "event.type": event, "event.provider": "web-shop", "appmon": {"visit": {"id": "7"}},
            "timestamp": f"2026-01-05T01:0{number}:00.000Z",
        }  # fmt: skip
        node.must("POST", f"/{PREFIX}text/_doc?refresh=true", record)
    try:
        result = invoke(
            "flow", "report", "web-shop", *world.elasticsearch(node), "--index", f"{PREFIX}text", "--format", "json"
        )
        assert [step["reached"] for step in json.loads(result.stdout)["steps"]][:3] == [1, 1, 0], result.stderr
    finally:
        node.must("DELETE", f"/{PREFIX}text")
