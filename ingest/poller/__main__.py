"""`python -m ingest.poller`: asks silent devices, until SIGTERM or SIGINT."""

import signal
import sys

import structlog
from pydantic import ValidationError
from pydantic_settings import SettingsError

from ingest.__main__ import EXIT_CONFIG, configure_log
from ingest.metrics import serve
from ingest.mqtt_account import MqttAccount
from ingest.poller.ear import Ear
from ingest.poller.metrics import PollerMetrics
from ingest.poller.process import Poller
from ingest.poller.raw_writer import RawWriter
from ingest.poller.settings import PollerMetricsSettings, PollerSettings
from schemas.connections import DatabaseConnection, KafkaConnection, MqttConnection


def main() -> int:
    configure_log()
    log = structlog.get_logger()
    try:
        settings, served = PollerSettings(), PollerMetricsSettings()
        mqtt, account = MqttConnection(), MqttAccount()
        kafka, database = KafkaConnection(), DatabaseConnection()
    except (ValidationError, SettingsError) as error:
        log.error("bad_configuration", error=str(error))
        return EXIT_CONFIG
    log = log.bind(process="poller")
    metrics = PollerMetrics()
    ear, writer = Ear(mqtt, account, log), RawWriter(kafka.bootstrap)
    poller = Poller(settings, ear, writer, database.url, metrics, log)
    server = serve(metrics.registry, poller.troubles, served.host, served.port)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: poller.stop())
    log.info("started", metrics_port=server.server_address[1])
    poller.run()
    server.shutdown()
    log.info("stopped")
    return poller.exit_code


if __name__ == "__main__":
    sys.exit(main())
