"""Brings requests to Kafka a second time, as a command process does that is killed in between."""

import random
import threading

from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

from schemas.topics import COMMAND_REQUEST, PARTITIONER

CHANCE = 0.05


class Echo:
    def __init__(self, bootstrap: str, seed: int) -> None:
        self._bootstrap = bootstrap
        self._chance = random.Random(seed)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="echo", daemon=True)
        self.count = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        consumer = Consumer(
            {"bootstrap.servers": self._bootstrap, "group.id": "echo", "enable.auto.commit": False}
        )
        producer = Producer(
            {"bootstrap.servers": self._bootstrap, "partitioner": PARTITIONER, "linger.ms": 200}
        )
        consumer.assign(
            [
                TopicPartition(COMMAND_REQUEST.name, partition, OFFSET_END)
                for partition in range(COMMAND_REQUEST.partitions)
            ]
        )
        while not self._stopping.is_set():
            message = consumer.poll(0.2)
            if message is None or message.error() is not None:
                continue
            if self._chance.random() < CHANCE:
                producer.produce(COMMAND_REQUEST.name, key=message.key(), value=message.value())
                producer.poll(0)
                self.count += 1
        producer.flush(10)
        consumer.close()
