"""The uplink with a fault planted: it acknowledges to the broker what Kafka does not have yet."""

import runpy

from infra.chaos.plants import acknowledge_at_once

if __name__ == "__main__":
    acknowledge_at_once()
    runpy.run_module("ingest", run_name="__main__")
