"""What a topic holds at this moment."""

import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from sinks.finality import log_ends

_PATIENCE_S = 60.0


def read_topic(kafka_bootstrap: str, topic: str) -> list[Message]:
    """Every record of it, each partition's in its order, though it may grow meanwhile."""
    ends = log_ends(kafka_bootstrap, topic)
    left = {part for part, end in ends.items() if end}
    consumer = Consumer(
        {
            "bootstrap.servers": kafka_bootstrap,
            "group.id": "reads-all",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.message.max.bytes": 4 * 1024 * 1024,
            "log_level": 0,
        }
    )
    consumer.assign([TopicPartition(topic, part, OFFSET_BEGINNING) for part in left])
    found: list[Message] = []
    deadline = time.monotonic() + _PATIENCE_S
    try:
        while left:
            assert time.monotonic() < deadline, f"{topic}: partitions {left} not read"
            for message in consumer.consume(5000, 0.2):
                part, offset = message.partition(), message.offset()
                assert part is not None
                assert offset is not None
                if message.error() is None:
                    found.append(message)
                if message.error() is not None or offset + 1 >= ends[part]:
                    left.discard(part)
    finally:
        consumer.close()
    return found
