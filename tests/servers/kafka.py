"""Real Kafka brokers, in KRaft mode, on free ports of the loopback.

    with Kafka(directory) as kafka:              one broker
    with Kafka(directory, brokers=3) as kafka:   three, for failover

Every broker has a listener without security, whose clients are super users. If there is an authority, it also listens with
SASL_SSL and SSL. Clients of these may do what the ACLs allow, and everything with topics without ACLs.

PLAIN and SCRAM accept USER and PASSWORD; `bearer` makes tokens for OAUTHBEARER, which brokers accept unsigned.
"""

import atexit
import base64
import functools
import json
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    PartitionMetadata,
    ResourcePatternType,
    ResourceType,
)

from tests.servers import installed
from tests.support.certificates import Authority
from tests.support.harness import freeze, until
from tests.support.ports import free_port

USER, PASSWORD = "btfeed", "SECRETOFKAFKA"
READY = 180.0
"""Seconds that a broker may take to start."""
CLUSTER = "YnRmZWVkLXRlc3RzLWthZg"
_NEVER = str(10 * 86_400_000)
_PROTOCOLS = {"CONTROLLER": "PLAINTEXT"}
_MECHANISMS = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER"
_PLAIN_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_OAUTH_LOGIN = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
_SCRAM_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule"


@functools.cache
def _command() -> list[str]:
    """`java -cp ...`. Raises NotInstalled."""
    java = installed.jdk(installed.KAFKA_JAVA) / "bin" / "java"
    # quick to start rather than fast for long; setpriv ends it with the process that started it
    options = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
    return ["setpriv", "--pdeathsig", "KILL", str(java), *options, "-cp", f"{installed.kafka()}/*"]


def tool(name: str, *arguments: str, given: str = "") -> str:
    """Run one of Kafka's command line tools, named by its class, and return its standard output."""
    command = [*_command(), "-Xmx128m", name, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, input=given, timeout=READY)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bearer(user: str = USER, life: float = 300.0, scope: str = "kafka") -> str:
    """An unsigned JSON web token of `user`."""

    def part(value: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    now = time.time()
    return f"{part({'alg': 'none'})}.{part({'sub': user, 'iat': now - 1, 'exp': now + life, 'scope': scope})}."


@dataclass
class Broker:
    """A broker. port: without security. sasl_port, tls_port: used if there is an authority."""

    node: int
    directory: Path
    port: int
    sasl_port: int
    tls_port: int
    controller_port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            command = [*_command(), "-Xms256m", "-Xmx256m", "kafka.Kafka", str(self.directory / "server.properties")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def wait(self) -> None:
        """Wait until it accepts connections."""
        until(self._listens, f"broker {self.node} listening, see {self.directory / 'log'}", READY)

    def _listens(self) -> bool:
        assert self.process
        assert self.process.poll() is None, (self.directory / "log").read_text()[-5000:]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def pause(self) -> None:
        """Send SIGSTOP: connections stay open, and requests are not answered."""
        if self.process and self.process.poll() is None:
            freeze(self.process.pid)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it. After SIGTERM, it does not look for damage when it starts again."""
        self._signal(number)
        assert self.process
        self.process.wait(READY)

    def _signal(self, number: signal.Signals) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)


@dataclass
class Kafka:
    """A cluster. Its brokers have Kafka's default settings, except for `settings`, and that they never look for messages to
    delete: those of tests are often from years ago, and could be gone before they were read.

    authority: signs the certificates of brokers and clients; without it there is no TLS
    """

    directory: Path
    brokers: int = 1
    authority: Authority | None = None
    settings: dict[str, str] = field(default_factory=dict)
    nodes: list[Broker] = field(default_factory=list)

    def __enter__(self) -> "Kafka":
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> "Kafka":
        installed.demand("kafka")
        for node in range(1, self.brokers + 1):
            port, sasl, tls, controller = (free_port() for _ in range(4))
            self.nodes.append(Broker(node, self.directory / f"broker-{node}", port, sasl, tls, controller))
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._format, self.nodes))
        for broker in self.nodes:
            broker.start()
        for broker in self.nodes:
            broker.wait()
        return self

    def stop(self) -> None:
        for broker in self.nodes:
            broker.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def bootstrap(self) -> str:
        return ",".join(f"127.0.0.1:{broker.port}" for broker in self.nodes)

    @property
    def sasl(self) -> str:
        return ",".join(f"localhost:{broker.sasl_port}" for broker in self.nodes)

    @property
    def tls(self) -> str:
        return ",".join(f"localhost:{broker.tls_port}" for broker in self.nodes)

    def admin(self) -> AdminClient:
        """Confluent's admin client, as a super user. Keep it until its requests are done."""
        return AdminClient({"bootstrap.servers": self.bootstrap})

    def make_topic(self, name: str, partitions: int = 1, replicas: int = 1, **config: str) -> str:
        """Create a topic, and return its name. Underscores in names of `config` stand for dots."""
        settings = {key.replace("_", "."): value for key, value in config.items()}
        admin = self.admin()
        for made in admin.create_topics([NewTopic(name, partitions, replicas, config=settings)]).values():
            made.result(READY)
        until(lambda: len(self.partitions(name)) == partitions, f"topic {name} known to the brokers", READY)
        return name

    def set_config(self, topic: str, **config: str) -> None:
        """Change settings of a topic. Underscores in names stand for dots."""
        change = AlterConfigOpType.SET
        entries = [ConfigEntry(key.replace("_", "."), value, incremental_operation=change) for key, value in config.items()]
        admin = self.admin()
        changed = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        for done in admin.incremental_alter_configs([changed]).values():
            done.result(READY)

    def partitions(self, topic: str) -> dict[int, PartitionMetadata]:
        """The partitions of a topic, with their leaders and replicas; empty if the topic does not exist."""
        known = self.admin().list_topics(timeout=READY).topics
        return dict(known[topic].partitions) if topic in known else {}

    def allow(self, topic: str, user: str, operation: AclOperation) -> None:
        """Allow `user` this operation on a topic. From then on, everything else on it must be allowed, too."""
        resource = (ResourceType.TOPIC, topic, ResourcePatternType.LITERAL)
        binding = AclBinding(*resource, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
        admin = self.admin()
        for done in admin.create_acls([binding]).values():
            done.result(READY)

    def console_consumer(self, topic: str, messages: int, *more: str) -> list[str]:
        """The lines that Kafka's own consumer prints for the first messages of a topic."""
        wanted = ("--topic", topic, "--from-beginning", "--max-messages", str(messages), "--timeout-ms", "30000")
        printed = tool(
            "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", self.bootstrap, *wanted, *more
        )
        return printed.splitlines()

    def _format(self, broker: Broker) -> None:
        broker.directory.mkdir(parents=True)
        path = broker.directory / "server.properties"
        path.write_text("".join(f"{name}={value}\n" for name, value in self._properties(broker).items()))
        scram = [f"SCRAM-SHA-{bits}=[name={USER},password={PASSWORD}]" for bits in (256, 512)]
        users = [word for one in scram for word in ("--add-scram", one)]
        tool("kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(path), *users)

    def _properties(self, broker: Broker) -> dict[str, str]:
        replicas = str(min(3, self.brokers))
        listeners: dict[str, tuple[str, int]] = {"PLAINTEXT": ("127.0.0.1", broker.port)}
        if self.authority:
            listeners |= {"SASL_SSL": ("localhost", broker.sasl_port), "SSL": ("localhost", broker.tls_port)}
        advertised = _listeners(listeners)
        listeners["CONTROLLER"] = ("127.0.0.1", broker.controller_port)
        voters = (f"{each.node}@127.0.0.1:{each.controller_port}" for each in self.nodes)
        properties = {
            "process.roles": "broker,controller",
            "node.id": str(broker.node),
            "controller.quorum.voters": ",".join(voters),
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": ",".join(f"{name}:{_PROTOCOLS.get(name, name)}" for name in listeners),
            "listeners": _listeners(listeners),
            "advertised.listeners": advertised,
            "log.dirs": str(broker.directory / "data"),
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": "1",
            "offsets.topic.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
            "log.initial.task.delay.ms": _NEVER,
            "log.retention.check.interval.ms": _NEVER,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "true",
        }
        return properties | self._security() | self.settings

    def _security(self) -> dict[str, str]:
        if not self.authority:
            return {}
        certificate, key = self.authority.sign("broker")
        pair = self.directory / "pair.pem"
        pair.write_text(_pkcs8(key) + certificate.read_text())
        sasl = "listener.name.sasl_ssl"
        plain = f'{_PLAIN_LOGIN} required username="b" password="b" user_{USER}="{PASSWORD}";'
        return {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(pair),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.certificate),
            "listener.name.ssl.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": _MECHANISMS,
            f"{sasl}.plain.sasl.jaas.config": plain,
            f"{sasl}.scram-sha-256.sasl.jaas.config": f"{_SCRAM_LOGIN} required;",
            f"{sasl}.scram-sha-512.sasl.jaas.config": f"{_SCRAM_LOGIN} required;",
            f"{sasl}.oauthbearer.sasl.jaas.config": f'{_OAUTH_LOGIN} required unsecuredLoginStringClaim_sub="broker";',
        }


def _listeners(places: dict[str, tuple[str, int]]) -> str:
    return ",".join(f"{name}://{host}:{port}" for name, (host, port) in places.items())


def _pkcs8(key: Path) -> str:
    command: Sequence[str | Path] = ["openssl", "pkcs8", "-topk8", "-nocrypt", "-in", key]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def shared() -> Kafka:
    """One broker for all tests that leave it as it was. It has Kafka's default settings, and creates missing topics."""
    installed.demand("kafka")
    return _shared()


@functools.cache
def _shared() -> Kafka:
    directory = Path(tempfile.mkdtemp(prefix="btfeed-kafka-"))
    kafka = Kafka(directory / "kafka", authority=Authority(directory / "ca")).start()
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    atexit.register(kafka.stop)
    return kafka
