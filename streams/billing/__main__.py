"""`python -m streams.billing`: issues the bills of all homes, and tells of them."""

from schemas.connections import DatabaseConnection, KafkaConnection
from streams.billing.job import Billing, BillingSettings, run
from streams.process import run_process
from streams.tariffs.loading import known_tariffs, known_tariffs_sha256


def main() -> None:
    settings = BillingSettings()
    billing = Billing(known_tariffs(), known_tariffs_sha256(), settings)
    run_process(
        "billing",
        settings.metrics_port,
        lambda stop: run(billing, DatabaseConnection().url, KafkaConnection().bootstrap, stop),
    )


if __name__ == "__main__":
    main()
