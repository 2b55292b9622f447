"""Tells the broker of accounts at once, on `$CONTROL/dynamic-security/v1`."""

import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from schemas.connections import AccountsConnection
from sinks import dynamic_security
from sinks.dynamic_security import ADMIN, NOT_THERE, Account, Command

TIMEOUT_S = 5.0
_CONNECT_TIMEOUT_S = 3.0
_TOPIC = "$CONTROL/dynamic-security/v1"
_PAGE = 500  # accounts an answer: it must fit into one packet


class BrokerAway(Exception):
    """The broker does not answer, or not to us; nothing is known of what was asked last."""


class BrokerRefused(Exception):
    """The broker did not do what it was told."""


class BrokerControl:
    """The administrator's connection, one for each call: changes are rare."""

    def __init__(self, connection: AccountsConnection) -> None:
        self._connection = connection

    def run(self, commands: Sequence[Command], tolerate: frozenset[str] = NOT_THERE) -> None:
        """Let the broker do all of this, in order; errors in `tolerate` are as good as done.

        Raises BrokerAway and BrokerRefused.
        """
        for answer in self._ask(commands):
            error = answer.get("error")
            if error is not None and error not in tolerate:
                raise BrokerRefused(f"the broker refused {answer.get('command')}: {error}")

    def accounts(self) -> list[Account]:
        """Every account that the broker has, without the administrator's."""
        clients = self._list("listClients", "clients")
        return dynamic_security.known(clients, self._list("listRoles", "roles"))

    def _list(self, command: str, what: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = {"command": command, "verbose": True, "count": _PAGE, "offset": len(found)}
            (answer,) = self._ask([page])
            if "error" in answer:
                raise BrokerRefused(f"the broker refused {command}: {answer['error']}")
            rows = answer["data"][what]
            found += rows
            if len(rows) < _PAGE:
                return found

    def _ask(self, commands: Sequence[Command]) -> list[dict[str, Any]]:
        """The broker's answers, in the order of the commands."""
        nonce = secrets.token_hex(8)
        asked = [
            {**command, "correlationData": f"{nonce}/{number}"}
            for number, command in enumerate(commands)
        ]
        wanted = {command["correlationData"] for command in asked}
        answers: dict[str, dict[str, Any]] = {}
        refused: list[str] = []
        client = self._client()

        def connected(
            _client: Client, _data: object, _flags: ConnectFlags, reason: ReasonCode, _p: object
        ) -> None:
            if reason.is_failure:
                refused.append(f"it answers the administrator: {reason}")
            else:
                client.subscribe(f"{_TOPIC}/response", qos=1)

        def subscribed(
            _client: Client, _data: object, _mid: int, reasons: list[ReasonCode], _p: object
        ) -> None:
            if reasons[0].is_failure:
                refused.append("the administrator's account cannot read answers")
            else:
                client.publish(_TOPIC, json.dumps({"commands": asked}), qos=1)

        def answered(_client: Client, _data: object, message: MQTTMessage) -> None:
            for answer in json.loads(message.payload)["responses"]:
                if answer.get("correlationData") in wanted:
                    answers[answer["correlationData"]] = answer

        client.on_connect, client.on_subscribe = connected, subscribed
        client.on_message = answered
        deadline = time.monotonic() + TIMEOUT_S
        try:
            client.connect(self._connection.host, self._connection.port, keepalive=30)
            while len(answers) < len(asked) and not refused:
                if client.loop(0.1) != MQTTErrorCode.MQTT_ERR_SUCCESS and not refused:
                    raise BrokerAway("the broker ended the administrator's connection")
                if time.monotonic() > deadline:
                    raise BrokerAway(f"the broker did not answer within {TIMEOUT_S:.0f} s")
        except (OSError, ValueError) as error:
            raise BrokerAway(f"the broker cannot be reached: {error}") from error
        finally:
            client.disconnect()
            client.loop(0.01)
        if refused:
            raise BrokerAway(refused[0])
        return [answers[command["correlationData"]] for command in asked]

    def _client(self) -> Client:
        connection = self._connection
        if connection.admin_password_file is None or connection.ca_file is None:
            raise BrokerAway(
                "this process has no administrator of accounts: set "
                "METERSTREAM_ACCOUNTS_ADMIN_PASSWORD_FILE and METERSTREAM_ACCOUNTS_CA_FILE"
            )
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        client.connect_timeout = _CONNECT_TIMEOUT_S
        try:
            client.username_pw_set(ADMIN, connection.admin_password_file.read_text().strip())
            client.tls_set(
                str(connection.ca_file),
                _text(connection.certificate_file),
                _text(connection.key_file),
            )
        except OSError as error:
            raise BrokerAway(f"{error.filename}: {error.strerror}") from error
        return client


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
