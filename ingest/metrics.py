"""The uplink's metrics and health, over HTTP. Counted per batch; no device in a label."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from ingest.process_metrics import ProcessMetrics

REFUSED_REASONS = ("too_large", "kafka_refused")


class Metrics(ProcessMetrics):
    def __init__(self) -> None:
        super().__init__("uplink")
        counter, gauge = self.counter, self.gauge
        self.received = counter("received", "MQTT messages read from the broker")
        self.received_bytes = counter("bytes", "payload bytes of these messages")
        self.delivered = counter("delivered", "messages that Kafka confirmed")
        self.acked = counter("acked", "PUBACKs sent to the broker")
        self.redelivered = counter("redelivered", "messages that MQTT marked as sent before")
        self.retained_dropped = counter("retained_dropped", "stored messages of no status topic")
        refused = counter("refused", "messages written to the dead letter topic", "reason")
        self.refused = {reason: refused.labels(reason) for reason in REFUSED_REASONS}
        self.reconnects = counter("reconnects", "connections to the broker after the first")
        self.sessions_lost = counter("sessions_lost", "reconnects that found no session: an alarm")
        self.broker_dropped = counter(
            "broker_dropped", "messages the broker says it dropped, for whomever: an alarm"
        )
        self.pauses = counter("pauses", "times that reading stopped because the queue was full")
        self.ticks = counter("ticks", "tick records that Kafka confirmed")
        self.ticks_skipped = counter("ticks_skipped", "ticks left out: the last one still waits")
        self.e2e_acks = counter("e2e_acks", "end-to-end acknowledgements sent to nodes")
        self.connected = gauge("connected", "1 while MQTT is connected and subscribed")
        self.in_flight = gauge("in_flight", "messages not acknowledged to the broker yet")
        self.queue = gauge("queue_length", "records that Kafka has not confirmed yet")
        self.e2e_pending = gauge("e2e_pending", "confirmed positions behind a gap")


def serve(
    registry: CollectorRegistry, troubles: Callable[[], list[str]], host: str, port: int
) -> ThreadingHTTPServer:
    """Serve `/metrics` and `/health` (200, or 503 with the reasons) in a thread."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest(registry))
            elif self.path == "/health":
                found = troubles()
                body = {"status": "unhealthy" if found else "healthy", "reasons": found}
                self._answer(503 if found else 200, "application/json", json.dumps(body).encode())
            else:
                self._answer(404, "text/plain", b"try /metrics or /health\n")

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Scrapes are not worth a line."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
