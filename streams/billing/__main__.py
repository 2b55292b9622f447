"""`python -m streams.billing`: issues the bills of all homes."""

import signal
import threading
from types import FrameType

import structlog
from prometheus_client import start_http_server

from schemas.connections import DatabaseConnection
from streams.billing.job import Billing, BillingSettings, run
from streams.logs import configure_logs
from streams.tariffs.loading import known_tariffs, known_tariffs_sha256


def main() -> None:
    configure_logs()
    settings = BillingSettings()
    stop = threading.Event()

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    if settings.metrics_port:
        start_http_server(settings.metrics_port, addr="127.0.0.1")
    structlog.get_logger().info("billing starts")
    billing = Billing(known_tariffs(), known_tariffs_sha256(), settings)
    run(billing, DatabaseConnection().url, stop)


if __name__ == "__main__":
    main()
