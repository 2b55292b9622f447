"""The downlink's metrics. No device in a label."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from schemas.command import CommandState

VERDICTS = (CommandState.FAILED, CommandState.EXPIRED)


class DownlinkMetrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"meterstream_downlink_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"meterstream_downlink_{name}", text, registry=self.registry)

        self.requests = counter("requests", "command requests read from Kafka")
        self.unreadable = counter("unreadable", "records that are no request or event")
        self.published = counter("published", "MQTT messages sent to devices")
        self.repeated = counter("repeated", "of these, messages sent before")
        self.unheard = counter("unheard", "messages that no device listened to")
        self.doubtful = counter("doubtful", "messages whose connection was lost before PUBACK")
        verdicts = counter("verdicts", "commands that were not, or not any more, sent", "state")
        self.verdicts = {state: verdicts.labels(state.value) for state in VERDICTS}
        self.open = gauge("open", "commands that are not settled")
        self.connected = gauge("connected", "1 while MQTT is connected")
        self.sent_s = Histogram(
            "meterstream_downlink_sent_seconds",
            "From the read request to its publishing",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30),
            registry=self.registry,
        )
