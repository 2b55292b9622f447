"""The downlink's metrics. No device in a label."""

from ingest.process_metrics import ProcessMetrics
from schemas.command import CommandState

VERDICTS = (CommandState.FAILED, CommandState.EXPIRED)


class DownlinkMetrics(ProcessMetrics):
    def __init__(self) -> None:
        super().__init__("downlink")
        counter, gauge = self.counter, self.gauge
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
        self.sent_s = self.histogram(
            "sent_seconds",
            "From the read request to its publishing",
            (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30),
        )
