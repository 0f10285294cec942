"""What tests need and which of them run, and the fixtures that several folders share.

Each test is marked with what it needs beyond Python: kafka, elasticsearch, java, strace, prometheus, haproxy, nginx,
browser, native. If this machine lacks that, the test is skipped; with --require-all the run fails at once instead. --quick
runs the tests that need no server or tool and are not marked slow, with fewer examples and repetitions.
"""

import gc
import os
import shutil
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from btfeed import native
from tests.servers import installed
from tests.support.harness import Server
from tests.support.strategies import UNHURRIED

TESTS = Path(__file__).parent
NATIVE_MODULES = {"records/test_native.py", "records/test_native_columns.py", "sinks/kafka/test_messages.py"}

TAKE_LONG = ("sinks/elasticsearch/", "system/cluster/", "journal/kafka/", "sinks/kafka/", "system/", "benchmarks/")
"""What modules that take longest begin with, the longest first."""
AS_USERS_DO = ("system/", "commands/")
"""Where servers are started as users start them, unless the form is quick. Others are forked: tests/support/forked.py."""

settings.register_profile("unhurried", UNHURRIED)
settings.register_profile("quick", UNHURRIED, max_examples=10)
settings.load_profile("unhurried")
os.environ.pop("BTFEED_CONFIG", None)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every process that a test starts compiles btfeed again


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("btfeed")
    group.addoption("--quick", action="store_true", help="run what needs no server or tool, with fewer repetitions")
    group.addoption("--require-all", action="store_true", help="fail if a server or tool is missing, instead of skipping")


def pytest_configure(config: pytest.Config) -> None:
    for number in (signal.SIGHUP, signal.SIGINT):  # nohup and background jobs ignore them, and what we start would, too
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)
    if config.getoption("quick"):
        settings.load_profile("quick")
    if config.getoption("require_all"):
        reasons = [reason for need in installed.NEEDS if (reason := _missing(need))]
        if shutil.which("cargo") and (reason := _missing("native")):
            reasons.append(reason)
        if reasons:
            raise pytest.UsageError(*reasons)


def pytest_report_header() -> str:
    return f"mapping: {native.PATH}"


# What a test needs


def _missing(need: str) -> str | None:
    """Why this machine can't meet a need, or None if it can."""
    if need == "native":
        return None if native.module else "the native modules are not built, or BTFEED_PLAIN is set: run make setup"
    return installed.missing(need)


def _needs(item: pytest.Item) -> set[str]:
    """By its module, its fixtures (such as kafka, java and systemd), its marks, and its sink in the contract suite."""
    call = getattr(item, "callspec", None)
    sink = str(call.params.get("driver")).partition("-")[0] if call else ""
    names = {*getattr(item, "fixturenames", ()), *(mark.name for mark in item.iter_markers()), sink}
    return names & installed.NEEDS.keys() | ({"native"} if _module(item.path) in NATIVE_MODULES else set())


def _module(path: Path) -> str:
    return path.relative_to(TESTS).as_posix()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage meanwhile, and spare each later garbage collection what was collected: all tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with what it needs, leave out what the quick form doesn't run, and put first what takes long."""
    for item in items:
        for need in _needs(item):
            item.add_marker(need)
    if config.getoption("quick"):
        unwanted = [item for item in items if _needs(item) & installed.NEEDS.keys() or _is_slow(item) or _repeats(item)]
        config.hook.pytest_deselected(items=unwanted)
        left_out = set(unwanted)
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=_turn)


def _is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


def _repeats(item: pytest.Item) -> bool:
    """Whether the test runs with its first seed, or its first signal, already."""
    call = getattr(item, "callspec", None)
    if call is None:
        return False
    return any(
        call.indices[name] > 0 for name, value in call.params.items() if name == "seed" or isinstance(value, signal.Signals)
    )


def _turn(item: pytest.Item) -> int:
    """The place of the test's module among those that take long, which come first: so no process is alone at the end."""
    module = _module(item.path)
    return next((turn for turn, start in enumerate(TAKE_LONG) if module.startswith(start)), len(TAKE_LONG))


class _Scheduler(LoadScopeScheduling):
    """A process runs whole modules, since their tests share what is costly to make, and one process runs all tests of
    Elasticsearch, since a node takes long to start, except for those of whole systems, which have nodes of their own."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return "elasticsearch" if "elasticsearch" in nodeid and not module.startswith("tests/system/") else module


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    config.option.loadscopereorder = False  # modules with few tests take longest
    return _Scheduler(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    Server.fork = item.config.getoption("quick") or not _module(item.path).startswith(AS_USERS_DO)
    needs = _needs(item)
    for need in sorted(needs):
        if reason := _missing(need):
            pytest.skip(reason)
    installed.markers = needs


class _SkippedModule(pytest.File):
    """A module that can't be imported without the native modules."""

    def collect(self) -> Iterator[pytest.Item]:
        pytest.skip(_missing("native") or "", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if _module(module_path) in NATIVE_MODULES and _missing("native"):
        return _SkippedModule.from_parent(parent, path=module_path)
    return None


# Fixtures


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """Undo what a test does to structlog: its stream may end with the test. So no logger may keep its settings."""
    configure = structlog.configure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structlog, "configure", lambda **given: configure(**given | {"cache_logger_on_first_use": False}))
        yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    """Whether to run short forms: fewer repetitions of the same."""
    return bool(request.config.getoption("quick"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running btfeed with one file sink."""
    with Server(tmp_path / "server") as running:
        yield running


@pytest.fixture(scope="session")
def java() -> Path:
    """The bin directory of a JDK."""
    return installed.jdk(installed.CLIENT_JAVA) / "bin"


@pytest.fixture(scope="session")
def systemd() -> str:
    """The path of systemd-analyze."""
    return installed.systemd_analyze()


@pytest.fixture(scope="session")
def strace() -> str:
    """The path of strace."""
    return installed.strace()


@pytest.fixture(scope="session")
def prometheus() -> installed.Prometheus:
    """The programs of Prometheus."""
    return installed.prometheus()
