"""The poller's metrics. No device in a label."""

from ingest.process_metrics import ProcessMetrics

OUTCOMES = ("written", "failed", "stepped_back")


class PollerMetrics(ProcessMetrics):
    def __init__(self) -> None:
        super().__init__("poller")
        counter, gauge = self.counter, self.gauge
        polls = counter("polls", "devices asked over HTTP", "outcome")
        self.polls = {outcome: polls.labels(outcome) for outcome in OUTCOMES}
        self.devices = gauge("devices", "devices that may be asked over HTTP")
        self.silent = gauge("silent", "of these, devices whose MQTT is silent")
        self.open_breakers = gauge("open_breakers", "devices that are left alone for a while")
        self.connected = gauge("connected", "1 while MQTT is connected")
        self.silences = counter("silences", "silences of meters noted from the ledger")
        self.questions = counter("questions", "hours of stored minutes asked for")
        self.unanswered = counter("unanswered", "of these, those without a usable answer")
        self.records = counter("records", "stored minutes that came")
