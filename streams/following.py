"""A whole topic read by one process, which commits what it has done."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from schemas.topics import Topic

_KAFKA_TIMEOUT_S = 10.0


@contextmanager
def following(bootstrap: str, group: str, topic: Topic, **more: object) -> Iterator[Consumer]:
    """A consumer of all partitions, each after what the group has committed.

    Raises KafkaException.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            **more,
        }
    )
    try:
        consumer.assign(_where_to_begin(consumer, topic))
        yield consumer
    finally:
        consumer.close()


def commit_after(consumer: Consumer, messages: Iterable[Message]) -> None:
    """Commit the offsets after the last message of each partition. Raises KafkaException."""
    last = {(one.topic(), one.partition()): one.offset() for one in messages}
    after = [TopicPartition(topic, part, offset + 1) for (topic, part), offset in last.items()]
    consumer.commit(offsets=after, asynchronous=False)


def _where_to_begin(consumer: Consumer, topic: Topic) -> list[TopicPartition]:
    """One process needs no group to share the partitions out.

    Asked for here and not left to `assign`, which stands still for good when the coordinator
    does not answer just then.
    """
    parts = [TopicPartition(topic.name, part) for part in range(topic.partitions)]
    found = consumer.committed(parts, timeout=_KAFKA_TIMEOUT_S)
    for one in found:
        if one.error is not None:
            raise KafkaException(one.error)
    return [
        TopicPartition(
            one.topic, one.partition, one.offset if one.offset >= 0 else OFFSET_BEGINNING
        )
        for one in found
    ]
