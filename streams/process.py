"""How a process of ours runs: its logs, its metrics, and an end that is asked for."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

import structlog
from prometheus_client import start_http_server

from streams.logs import configure_logs

_LATEST_END_S = 10


def run_process(name: str, metrics_port: int, work: Callable[[threading.Event], None]) -> None:
    """Run `work` until SIGTERM or SIGINT sets its event; metrics and health on `metrics_port`.

    Port 0: none. Work that does not end in 10 s, as while Kafka is away, is left: what is not
    announced then is announced after the next start.
    """
    configure_logs()
    stop = threading.Event()

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()
        threading.Thread(target=_leave_late, daemon=True).start()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    if metrics_port:
        start_http_server(metrics_port, addr="127.0.0.1")
    structlog.get_logger().info(f"{name} starts")
    work(stop)


def _leave_late() -> None:
    time.sleep(_LATEST_END_S)
    os._exit(0)
