"""Where `btfeed flow` reads records: files, a configured sink, or Elasticsearch; and the engine that reads them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from btfeed.commands.config_file import load
from btfeed.commands.connection import name_and_password
from btfeed.commands.outputs import check_apart
from btfeed.commands.secrets import secret, token
from btfeed.commands.terminal import fail
from btfeed.signals import cleaning
from btfeed.telemetry.printable import printable
from btfeed.telemetry.wording import count

if TYPE_CHECKING:
    from btfeed.flow.definition import Definition
    from btfeed.flow.elastic import Place
    from btfeed.flow.engine import Engine
    from btfeed.flow.report import Report
    from btfeed.flow.sources import Found, Scan
    from btfeed.records.mapper import PostMapper

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Records:
    """The values of the options that say where records are, as they were given. Its methods raise BadParameter.

    also_read  further files that the command reads
    written    files of --out, none of which may be read
    """

    sources: tuple[Path, ...] = ()
    config: Path | None = None
    sink: str | None = None
    open: bool = False
    elasticsearch: tuple[str, ...] = ()
    index: str | None = None
    user: str | None = None
    api_key: Path | None = None
    ca: Path | None = None
    memory: int | None = None
    temp: Path | None = None
    also_read: tuple[Path, ...] = ()
    written: tuple[Path, ...] = ()

    def check(self) -> None:
        """Refuse what is missing, or contradicts itself."""
        given = [bool(self.sources), self.sink is not None, bool(self.elasticsearch)]
        if sum(given) != 1:
            what = "name one of them, not several" if any(given) else "is missing"
            raise typer.BadParameter(f"{what}: files, --sink NAME, or --elasticsearch URL", param_hint="SOURCE")
        for value, option in (
            (self.index, "--index"),
            (self.user, "--user"),
            (self.api_key, "--api-key-file"),
            (self.ca, "--ca"),
        ):
            if value is not None and not self.elasticsearch:
                raise typer.BadParameter("only useful with --elasticsearch", param_hint=option)
        if self.user and self.api_key:
            raise typer.BadParameter("use either --user or --api-key-file, not both", param_hint="--user")

    def answer(
        self,
        definition: "Definition",
        ask: "Callable[[Engine], T]",
        *,
        whole: bool = False,
        flows: Sequence[str] | None = None,
    ) -> tuple[T, "Scan"]:
        """What `ask` gets from an engine that reads these records, and what was read. Raises FlowError.

        whole  all fields of all records are needed
        flows  only records of flows with these ids are needed, and the PurePaths behind their actions
        """
        from btfeed.flow.engine import Engine
        from btfeed.flow.errors import EngineMissing, FlowError

        with self._scan(definition, whole, flows) as scan:
            for note in scan.notes:
                say(note)
            try:
                with Engine(definition, scan.source, self.memory, scan.spool) as engine:
                    try:
                        return _any_read(engine, ask(engine), scan, flows)
                    except FlowError:
                        engine.check_files()
                        raise
            except EngineMissing:
                raise
            except FlowError:
                repaired = scan.repaired(say)
                if repaired.unreadable == scan.unreadable:
                    raise
            with Engine(definition, repaired.source, self.memory, scan.spool) as engine:
                return _any_read(engine, ask(engine), repaired, flows)

    @contextmanager
    def _scan(self, definition: "Definition", whole: bool, flows: Sequence[str] | None) -> "Iterator[Scan]":
        from btfeed.flow import sources
        from btfeed.flow.fields import fields

        place = self._elasticsearch() if self.elasticsearch else None
        found: Found | None = None
        if self.sink is not None:
            place, found = self._of_sink(self.sink)
        elif place is None:
            found = sources.find(self.sources, self.open)
        self._check_outputs(found)
        with sources.spool(self.temp) as spool, cleaning(lambda: sources.remove(spool)):
            if found is not None:
                yield sources.of_files(found, spool, self._mapper, say)
                return
            assert place
            from btfeed.flow import elastic

            if flows is not None:
                yield elastic.read_flows(place, definition, flows, spool)
            else:
                yield elastic.read(place, definition, None if whole else fields(definition), spool)

    def _check_outputs(self, found: "Found | None") -> None:
        """Refuse to write a file that is read, before any is."""
        read = [*self.also_read, *(path for path in self.sources if not path.is_dir())]
        if found is not None:
            read += [*found.ndjson, *found.parquet, *found.avro, *found.posts, *found.passed_over]
        read += [path for path in (self.config, self.api_key, self.ca) if path is not None]
        read += [Path(self.user[1:])] if self.user and self.user.startswith("@") else []
        check_apart({}, read)
        for path in self.written:
            check_apart({"--out": path}, read)

    def _mapper(self) -> "PostMapper":
        from btfeed.records.mapper import create_mapper

        loaded = load(self.config, ("record", "validation"))
        return create_mapper(loaded.record, loaded.validation)

    def _elasticsearch(self) -> "Place":
        from pydantic import ValidationError

        from btfeed.flow.elastic import Place, settings_of
        from sinks.elasticsearch.index import IndexName
        from sinks.elasticsearch.settings import DEFAULT_INDEX

        user = name_and_password(secret(self.user, "--user"), "--user") if self.user else None
        key = token(f"@{self.api_key}", "--api-key-file") if self.api_key else None
        try:
            settings = settings_of(self.elasticsearch, user, key, self.ca)
        except ValidationError as error:
            raise typer.BadParameter(
                error.errors()[0]["msg"].removeprefix("Value error, "), param_hint="--elasticsearch"
            ) from None
        return Place(settings, self.index or IndexName(DEFAULT_INDEX).pattern)

    def _of_sink(self, name: str) -> "tuple[Place | None, Found | None]":
        """Where a sink of the configuration writes to. Ends the command with status 2 if it is not a sink that is read."""
        loaded = load(self.config, ("sinks",), tolerant=True)
        if name not in loaded.sinks or not loaded.is_complete(f"sinks.{name}"):
            why = [f"{path}: {why}" for path, why in loaded.unresolved.items() if path.startswith(f"sinks.{name}.")]
            known = ", ".join(loaded.sinks) or "none"
            fail("\n".join(why) or f"no sink {name} is configured: the sinks are {known}", 2)
        kind, settings = loaded.sinks[name].common.type, loaded.sinks[name].settings
        if kind == "file":
            from btfeed.flow import sources
            from sinks.file import FileSettings, is_file_of

            assert isinstance(settings, FileSettings)
            return None, sources.find([Path(settings.directory)], self.open, lambda path: is_file_of(name, path))
        if kind == "elasticsearch":
            from btfeed.flow.elastic import Place
            from sinks.elasticsearch.index import IndexName
            from sinks.elasticsearch.settings import ElasticsearchSettings

            assert isinstance(settings, ElasticsearchSettings)
            return Place(settings, IndexName(settings.data_stream or settings.index).pattern), None
        return fail(f"sink {name} is of type {kind}: flows are read of file and elasticsearch sinks", 2)


def _any_read(engine: "Engine", answer: T, scan: "Scan", flows: Sequence[str] | None) -> "tuple[T, Scan]":
    """What was answered. Raises FlowError if nothing at all of the source can be read: zeros would look like numbers.

    flows  the only ones that were looked for, for which not all records are read
    """
    from btfeed.flow.errors import FlowError

    if flows is None and engine.read.records == engine.read.unreadable and (engine.read.records or scan.unreadable):
        what = count(engine.read.unreadable + scan.unreadable, "line, post or file", "lines, posts or files")
        raise FlowError(f"nothing can be read: {what} without a record that has a time")
    return answer, scan


def with_unreadable(made: "Report", scan: "Scan") -> "Report":
    """The report with what could not be brought to the engine among the records that could not be read."""
    if not scan.unreadable:
        return made
    source = replace(made.source, unreadable=made.source.unreadable + scan.unreadable)
    what = count(scan.unreadable, "post, line or file", "posts, lines or files")
    note = f"damaged, or cut off: {what}; what comes before the damage is counted"
    return replace(made, source=source, notes=(*made.notes, note))


def say(text: str) -> None:
    """Tell a person, and not who reads the result."""
    typer.echo(printable(text), err=True)
