"""Topics as declared: created where missing, their settings brought up to date."""

from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewTopic,
    ResourceType,
)

from infra.local.errors import PartitionCountDiffers
from schemas.topics import TOPICS, Topic

TIMEOUT_S = 30.0


def create_topics(bootstrap: str, replication: int = 1, topics: Sequence[Topic] = TOPICS) -> None:
    """Make Kafka's topics equal to the table; running it again changes nothing.

    Settings that the table no longer names return to the broker's default. Topics that are not
    in the table are left alone.

    Raises PartitionCountDiffers before anything is changed: a new count would move devices to
    other partitions and break their order.
    """
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    existing = client.list_topics(timeout=TIMEOUT_S).topics
    for topic in topics:
        if topic.name in existing and len(existing[topic.name].partitions) != topic.partitions:
            raise PartitionCountDiffers(
                f"topic {topic.name} has {len(existing[topic.name].partitions)} partitions, "
                f"but schemas/topics.py declares {topic.partitions}; partition counts never "
                f"change: declare the old count, or a new topic version"
            )
    missing = [topic for topic in topics if topic.name not in existing]
    if missing:
        _create(client, missing, replication)
    _update_settings(client, [topic for topic in topics if topic.name in existing])


def _create(client: AdminClient, topics: Sequence[Topic], replication: int) -> None:
    futures = client.create_topics(
        [
            NewTopic(
                topic.name,
                num_partitions=topic.partitions,
                replication_factor=replication,
                config=dict(topic.config),
            )
            for topic in topics
        ],
        operation_timeout=TIMEOUT_S,
    )
    for future in futures.values():
        try:
            future.result()
        except KafkaException as error:
            # Another `up` was quicker.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def _update_settings(client: AdminClient, topics: Sequence[Topic]) -> None:
    """Set what differs from the table, and unset what the table does not name."""
    if not topics:
        return
    wanted = {topic.name: dict(topic.config) for topic in topics}
    described = client.describe_configs(
        [ConfigResource(ResourceType.TOPIC, name) for name in wanted]
    )
    changes = []
    for resource, future in described.items():
        config = wanted[resource.name]
        present = {
            entry.name: entry.value
            for entry in future.result().values()
            if entry.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value
        }
        operations = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
            for key, value in config.items()
            if present.get(key) != value
        ] + [
            ConfigEntry(key, None, incremental_operation=AlterConfigOpType.DELETE)
            for key in present
            if key not in config
        ]
        if operations:
            changes.append(
                ConfigResource(ResourceType.TOPIC, resource.name, incremental_configs=operations)
            )
    if changes:
        for future in client.incremental_alter_configs(changes).values():
            future.result()
