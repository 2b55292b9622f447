"""Whether the broker lets somebody in, asked before anything depends on it."""

import threading

from paho.mqtt.client import Client, ConnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from ingest.mqtt_account import MqttAccount
from schemas.connections import MqttConnection

ANSWERS_WITHIN_S = 30.0
GIVE_ACCOUNT = (
    "give METERSTREAM_MQTT_ANONYMOUS=false here too, as for `meterstream up`, or an account: "
    "METERSTREAM_MQTT_USER and METERSTREAM_MQTT_PASSWORD_FILE"
)
NEED_ANONYMOUS = (
    "this speaks for devices that have no accounts: run it on a stack that was started without "
    "METERSTREAM_MQTT_ANONYMOUS=false"
)


class NotLetIn(Exception):
    """The broker refuses a client; the text says what to do."""


def knock(connection: MqttConnection, account: MqttAccount | None, remedy: str) -> None:
    """Connect once, and leave. Without an account as nobody.

    Raises NotLetIn with the `remedy`, OSError or TimeoutError where no broker answers.
    """
    answered = threading.Event()
    refusals: list[str] = []

    def on_connect(
        _client: Client, _data: object, _flags: ConnectFlags, reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:  # fmt: skip
        if reason.is_failure:
            refusals.append(str(reason))
        answered.set()

    client = Client(
        CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=False
    )
    if account is not None:
        account.apply(client)
    client.on_connect = on_connect
    where = f"{connection.host}:{connection.port}"
    client.connect(connection.host, connection.port)
    client.loop_start()
    try:
        if not answered.wait(ANSWERS_WITHIN_S):
            raise TimeoutError(f"the broker at {where} does not answer")
    finally:
        client.disconnect()
        client.loop_stop()
    if refusals:
        raise NotLetIn(f"the broker at {where} says {refusals[0]}; {remedy}")
