"""The relays of a trial: what the database believes of them, and the account of what they ran."""

from collections.abc import Sequence
from typing import Any

import psycopg

from infra.switches.device import Switch
from infra.switches.journal import Journal, read_journal
from infra.trials.switching import Account, Asked, Attributed, RelayKey, account

Connection = psycopg.Connection[Any]
_OF_RELAYS = """
SELECT address, channel, device_id, value FROM device_state JOIN device USING (device_id)
WHERE field = 'relay' AND address = ANY (%s)
"""
_COMMANDS = """
SELECT command_id, command_seq, address, coalesce(command.channel, ''), kind, to_us(issued_at),
       to_us(expires_at), state, confirmed_by, sent_at IS NOT NULL
FROM command JOIN device USING (device_id) WHERE address = ANY (%s)
"""
_SWITCHINGS = """
SELECT address, switch_event.channel, to_us(at), was_on, is_on, by_kind, by_whom, command_id::text
FROM switch_event JOIN device USING (device_id) WHERE address = ANY (%s) ORDER BY switch_no
"""


class Relays:
    """Some devices, each with what it wrote into `journal`."""

    def __init__(self, devices: Sequence[Switch], journal: Journal) -> None:
        self._devices = devices
        self._journal = journal
        self._addresses = [device.address for device in devices]
        self._keys = {
            (device.address, device.channel(relay) or ""): (device.address, relay)
            for device in devices
            for relay in range(len(device.on))
        }

    @property
    def count(self) -> int:
        return len(self._keys)

    def device_ids(self, conn: Connection) -> dict[str, int]:
        """By address: the devices of which the state of some relay is stored."""
        rows = conn.execute(_OF_RELAYS, [self._addresses]).fetchall()
        return {address: device_id for address, _, device_id, _ in rows}

    def unknown(self, conn: Connection) -> list[tuple[str, str]]:
        """The relays whose state is not stored yet."""
        rows = conn.execute(_OF_RELAYS, [self._addresses]).fetchall()
        return sorted(self._keys.keys() - {(address, channel) for address, channel, *_ in rows})

    def without_interlock(self, conn: Connection) -> None:
        """Let commands come at any pace."""
        conn.execute(
            "INSERT INTO command_limit (device_id, switch_interval_s) "
            "SELECT device_id, 0 FROM device WHERE address = ANY (%s)",
            [self._addresses],
        )

    def open(self, conn: Connection) -> int:
        """How many commands have not ended."""
        ((count,),) = conn.execute(
            "SELECT count(*) FROM command JOIN device USING (device_id) "
            "WHERE address = ANY (%s) AND state IN ('accepted', 'sent', 'received')",
            [self._addresses],
        ).fetchall()
        return int(count)

    def is_settled(self, conn: Connection) -> bool:
        """Whether every command has ended and every relay is believed to be as it is."""
        ((unread,),) = conn.execute("SELECT count(*) FROM command_answer").fetchall()
        return not unread and not self.open(conn) and self._believed(conn) == self._is_on()

    def account(self, conn: Connection) -> Account:
        keys = self._keys
        asked = [
            Asked(str(command_id), seq, keys[address, channel], kind == "on", *rest)
            for command_id, seq, address, channel, kind, *rest in conn.execute(
                _COMMANDS, [self._addresses]
            )
        ]
        attributed = [
            Attributed(keys[address, channel], *rest)
            for address, channel, *rest in conn.execute(_SWITCHINGS, [self._addresses])
        ]
        ran = read_journal(self._journal.path)
        return account(ran, asked, attributed, self._is_on(), self._believed(conn))

    def _is_on(self) -> dict[RelayKey, bool]:
        return {
            (device.address, relay): on
            for device in self._devices
            for relay, on in enumerate(device.on)
        }

    def _believed(self, conn: Connection) -> dict[RelayKey, bool]:
        rows = conn.execute(_OF_RELAYS, [self._addresses])
        return {self._keys[address, channel]: value for address, channel, _, value in rows}
