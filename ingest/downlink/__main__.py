"""`python -m ingest.downlink`: commands to devices, until SIGTERM or SIGINT."""

import os
import signal
import sys
import threading
import time
from types import FrameType

import structlog
from pydantic import ValidationError
from pydantic_settings import SettingsError

from ingest.__main__ import EXIT_CONFIG, configure_log
from ingest.downlink.metrics import DownlinkMetrics
from ingest.downlink.process import Downlink
from ingest.downlink.settings import DownlinkMetricsSettings, DownlinkSettings
from ingest.metrics import serve
from ingest.mqtt_account import MqttAccount
from schemas.connections import KafkaConnection, MqttConnection

LEAVE_LATE_S = 8.0  # of the 10 s between SIGTERM and SIGKILL


def main() -> int:
    configure_log()
    log = structlog.get_logger()
    try:
        settings, served = DownlinkSettings(), DownlinkMetricsSettings()
        mqtt, account, kafka = MqttConnection(), MqttAccount(), KafkaConnection()
    except (ValidationError, SettingsError) as error:
        log.error("bad_configuration", error=str(error))
        return EXIT_CONFIG
    log = log.bind(process="downlink")
    metrics = DownlinkMetrics()
    downlink = Downlink(settings, mqtt, account, kafka, metrics, log)
    server = serve(metrics.registry, downlink.troubles, served.host, served.port)

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        downlink.stop()
        threading.Thread(target=_leave_late, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask_to_stop)
    log.info("started", metrics_port=server.server_address[1])
    code = downlink.run()
    server.shutdown()
    log.info("stopped")
    return code


def _leave_late() -> None:
    """Kafka away at the end: what was not said to be sent is sent after the next start."""
    time.sleep(LEAVE_LATE_S)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
