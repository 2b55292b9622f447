"""What a worker tells Prometheus. Counted per batch; no device ever stands in a label."""

from prometheus_client import Counter, Gauge, Histogram

RECORDS = Counter("meterstream_stream_records", "Records of the raw topic taken")
READINGS = Counter("meterstream_stream_readings", "Readings newly stored")
DUPLICATES = Counter("meterstream_stream_duplicates", "Readings that said nothing new")
CONFLICTS = Counter("meterstream_stream_conflicts", "Readings that gave way to one of their key")
REFUSED = Counter("meterstream_stream_refused", "Records refused", ["reason"])
WINDOWS = Counter("meterstream_stream_windows", "Windows completed or revised")
LATE = Counter("meterstream_stream_redone", "Spans of complete windows computed anew")
TICKS_AHEAD = Counter("meterstream_stream_ticks_ahead", "Ticks ignored: their clock is ahead")
LOG_GAPS = Counter("meterstream_stream_log_gaps", "Offsets the log no longer held when read")
RETRIES = Counter("meterstream_stream_retries", "Transactions tried again after an outage")
CHANGED = Counter("meterstream_stream_changed_devices", "Devices that people have changed")
TAKEOVERS = Counter("meterstream_stream_takeovers", "Partitions taken over")
TRANSACTION_S = Histogram(
    "meterstream_stream_transaction_seconds",
    "From the start of a transaction to its commit",
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 30),
)
BATCH = Histogram(
    "meterstream_stream_transaction_records",
    "Records of one transaction",
    buckets=(1, 10, 100, 1000, 5000, 10_000, 20_000, 40_000),
)
STREAM_LAG_S = Gauge("meterstream_stream_time_lag_seconds", "How far stream time is behind")
QUEUED = Gauge("meterstream_stream_queued_records", "Records fetched and not yet folded")
PARTITIONS = Gauge("meterstream_stream_partitions", "Partitions this worker owns")
UNCONFIRMED = Gauge("meterstream_stream_unconfirmed", "Derived records Kafka has not confirmed")
