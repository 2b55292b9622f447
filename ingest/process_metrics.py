"""What every process of this room tells Prometheus in, and of itself. No device in a label."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector


class ProcessMetrics:
    """A registry of its own; each name begins with `meterstream_` and the process's."""

    def __init__(self, process: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._prefix = f"meterstream_{process}_"

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(self._prefix + name, text, labels, registry=self.registry)

    def gauge(self, name: str, text: str) -> Gauge:
        return Gauge(self._prefix + name, text, registry=self.registry)

    def histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(self._prefix + name, text, buckets=buckets, registry=self.registry)
