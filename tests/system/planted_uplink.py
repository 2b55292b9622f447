"""The uplink with a fault planted: it acknowledges to the broker what Kafka does not have yet."""

import sys

import ingest.__main__ as uplink
from ingest.batch_client import Message, pubacks
from ingest.connector import Connector


class EagerConnector(Connector):
    def _received(self, messages: list[Message]) -> None:
        super()._received(messages)
        self._client.send_packets(pubacks([message[2] for message in messages if message[2]]))

    def _acknowledge(self) -> None:
        self._gate.release()


if __name__ == "__main__":
    uplink.Connector = EagerConnector
    sys.exit(uplink.main())
