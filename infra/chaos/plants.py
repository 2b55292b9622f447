"""Six losses on purpose, each by one wrong setting or one wrong line: the accounting must see them.

    python -m infra.chaos.plants uplink|worker

starts this process of the product. If the file `PLANT_FILE` of the stack's state directory names a
plant of this process, one function or class of it is replaced first; otherwise it is the product.
"""

import os
import runpy
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.swarm.nodes import Believe

if TYPE_CHECKING:
    import psycopg

    from sinks.progress import Step

PLANT_FILE = "plant"
MODULES = {"uplink": "ingest", "worker": "streams"}
BEFORE_ROWS_S = 1.0  # between the offset and its rows


@dataclass(frozen=True)
class Plant:
    """A fault in the pipeline's promises, and what would hide its losses.

    `believe` says whom the nodes trust, with the plant and without: what Mosquitto confirms is
    not sent again, so nothing hides what is lost behind it. `broker` and `database` replace
    settings (None: the line is left out), `process` is started with `replace` called first.
    """

    name: str
    what: str
    without: str
    believe: Believe = "puback"
    broker: Mapping[str, str | None] = field(default_factory=dict)
    database: Mapping[str, str] = field(default_factory=dict)
    process: str | None = None
    replace: Callable[[], None] | None = None


# ---- the uplink


def acknowledge_at_once() -> None:
    """PUBACK as soon as a message is there, as paho does by itself."""
    import ingest.connector
    from ingest.batch_client import Message, pubacks
    from ingest.connector import Connector

    class EagerConnector(Connector):
        def _received(self, messages: list[Message]) -> None:
            super()._received(messages)
            self._client.send_packets(pubacks([message[2] for message in messages if message[2]]))

        def _acknowledge(self) -> None:
            self._gate.release()

    ingest.connector.Connector = EagerConnector  # type: ignore[misc]


def _start_clean() -> None:
    """paho's own `clean_start`: the first connection of a process ends the session before it."""
    import ingest.broker_link
    from ingest.batch_client import BatchClient

    class ForgetfulClient(BatchClient):
        def connect_async(self, *arguments: Any, **named: Any) -> None:
            del named["clean_start"]
            super().connect_async(*arguments, **named)

    ingest.broker_link.BatchClient = ForgetfulClient  # type: ignore[attr-defined]


# ---- the worker


def _begin_at_the_groups_offset() -> None:
    """A partition is read from where Kafka's group says, however far the table is."""
    from confluent_kafka import Consumer, TopicPartition

    import streams.app
    from schemas.connections import KafkaConnection
    from schemas.topics import RAW
    from streams.partition import Partition
    from streams.pipeline import Pipeline
    from streams.settings import WorkerSettings

    group = {"bootstrap.servers": KafkaConnection().bootstrap, "enable.auto.commit": False}

    class GroupPipeline(Pipeline):
        def _take_over(self, part: int) -> Partition:
            consumer = Consumer({**group, "group.id": WorkerSettings().worker_group})
            (place,) = consumer.committed([TopicPartition(RAW.name, part)], timeout=10)
            consumer.close()

            def move(conn: "psycopg.Connection[Any]") -> None:
                conn.execute(
                    "UPDATE stream_progress SET next_offset = %s WHERE topic = %s AND part = %s "
                    "AND next_offset < %s",
                    (place.offset, RAW.name, part, place.offset),
                )

            self._retried(self._store_link, move)
            return super()._take_over(part)

    streams.app.Pipeline = GroupPipeline  # type: ignore[attr-defined]


def _store_the_offset_first() -> None:
    """The offset moves in a transaction of its own, and the rows follow in the next."""
    import psycopg

    from schemas.connections import DatabaseConnection
    from sinks import progress

    advance = progress.advance

    def advance_first(_: "psycopg.Connection[Any]", topic: str, steps: "Sequence[Step]") -> bool:
        with psycopg.connect(DatabaseConnection().url) as own:
            is_new = advance(own, topic, steps)
        time.sleep(BEFORE_ROWS_S)
        return is_new

    progress.advance = advance_first  # type: ignore[assignment]


PLANTS = (
    Plant(
        "broker-persistence",
        what="Mosquitto saves its queue every 1800 s, as it does by default",
        without="it saves every second",
        broker={"autosave_interval": None, "autosave_on_changes": None},
    ),
    Plant(
        "short-queue",
        what="Mosquitto's queue holds 1,000 messages, as it does by default",
        without="it holds a million",
        broker={"max_queued_messages": "1000"},
    ),
    Plant(
        "clean-start",
        what="the uplink begins a new session at each start, as paho does by default",
        without="it goes on with its session",
        process="uplink",
        replace=_start_clean,
    ),
    Plant(
        "auto-ack",
        what="the uplink acknowledges what Kafka does not have yet",
        without="it acknowledges what Kafka has confirmed",
        process="uplink",
        replace=acknowledge_at_once,
    ),
    Plant(
        "asynchronous-commit",
        what="synchronous_commit = off, and the offsets are those of Kafka's group",
        without="a commit is on disk, and the offset is part of it",
        believe="ack",
        database={
            "synchronous_commit": "off",
            "wal_writer_delay": "10s",
            "wal_writer_flush_after": "1GB",
        },
        process="worker",
        replace=_begin_at_the_groups_offset,
    ),
    Plant(
        "offset-first",
        what="the offset is stored in a transaction of its own, before the rows",
        without="offset and rows are one transaction",
        believe="ack",
        process="worker",
        replace=_store_the_offset_first,
    ),
)


def main() -> None:
    process = sys.argv[1]
    planted = Path(os.environ["METERSTREAM_STATE_DIR"]) / PLANT_FILE
    name = planted.read_text() if planted.exists() else ""
    for plant in PLANTS:
        if plant.name == name and plant.process == process and plant.replace is not None:
            plant.replace()
    module = MODULES[process]
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
