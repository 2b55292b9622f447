"""Gives devices accounts and takes them away: in the database and at the broker, or not at all.

The broker is told inside the transaction, before its commit: while the broker is away nothing
changes. Should the commit fail after it, the broker is told to forget; should that fail too,
`reconcile` finds it, and an account that the database does not know has a token nobody was told.
"""

import secrets
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg

from schemas.mqtt_rights import NoAccount, Rights, address_of_node, rights_of
from sinks import dynamic_security
from sinks.accounts import (
    TOKEN_CHARACTERS,
    AccountRow,
    NoSuchAccount,
    active_accounts,
    find_account,
    keep_token,
    lock_accounts,
    mark_revoked,
)
from sinks.broker_control import BrokerAway, BrokerControl, BrokerRefused
from sinks.dynamic_security import NOT_THERE, Account, Drift
from sinks.registry import DeviceRow, RegistryError, claim_device

DEFAULT_ZONE = "Asia/Bangkok"


class AlreadyProvisioned(RegistryError):
    """The device has an account, or belongs to another home."""


class NotProvisionable(RegistryError):
    """Such a device can have no account."""


class Provisioned(NamedTuple):
    """A device's account with its token, which is told this once. The client id is the user."""

    device_id: int
    address: str
    user_name: str
    token: str
    rights: Rights


def provision(
    conn: psycopg.Connection[Any],
    control: BrokerControl,
    *,
    node_id: str,
    name: str,
    home_id: str,
    family: str = "homesync",
    location: str | None = None,
) -> Provisioned:
    """Register a device for a home and make its account. Commits.

    Raises NotProvisionable, AlreadyProvisioned, NameTaken, NodeNameTaken, BrokerAway,
    BrokerRefused.
    """
    try:
        address = address_of_node(family, home_id, node_id)
    except NoAccount as error:
        raise NotProvisionable(str(error)) from error
    lock_accounts(conn)
    _refuse_known(conn, address, home_id)
    zone = conn.execute("SELECT zone FROM home WHERE home_id = %s", [home_id]).fetchone()
    device_id = claim_device(conn, address, name, home_id, zone[0] if zone else DEFAULT_ZONE)
    if location is not None:
        conn.execute("UPDATE device SET location = %s WHERE device_id = %s", [location, device_id])
    token = secrets.token_hex(TOKEN_CHARACTERS // 2)
    user_name = keep_token(conn, device_id, address, token)
    account = Account(user_name, user_name, rights_of(address))
    control.run(dynamic_security.create(account, token))
    try:
        conn.commit()
    except psycopg.Error:
        with suppress(BrokerAway, BrokerRefused):
            control.run(dynamic_security.remove(user_name))
        raise
    return Provisioned(device_id, address, user_name, token, account.rights)


def rotate_token(
    conn: psycopg.Connection[Any], control: BrokerControl, device: DeviceRow
) -> Provisioned:
    """A new token in place of the old, which ends the device's connection. Commits.

    Raises NoSuchAccount, BrokerAway, BrokerRefused.
    """
    lock_accounts(conn)
    row = _active(conn, device)
    token = secrets.token_hex(TOKEN_CHARACTERS // 2)
    keep_token(conn, row.device_id, row.address, token)
    try:
        control.run(dynamic_security.set_password(row.user_name, token), tolerate=frozenset())
    except BrokerRefused:  # it had lost the account
        control.run(dynamic_security.create(row.account, token))
    conn.commit()
    return Provisioned(row.device_id, row.address, row.user_name, token, row.account.rights)


def revoke(conn: psycopg.Connection[Any], control: BrokerControl, device: DeviceRow) -> None:
    """Take the account away and end its connection. Commits.

    Raises NoSuchAccount, BrokerAway, BrokerRefused.
    """
    lock_accounts(conn)
    row = _active(conn, device)
    mark_revoked(conn, row.device_id)
    control.run(dynamic_security.remove(row.user_name), tolerate=NOT_THERE)
    conn.commit()


def look_for_drift(
    conn: psycopg.Connection[Any], control: BrokerControl, services: list[Account]
) -> Drift:
    """Where the broker differs from the database and from what services it should have."""
    lock_accounts(conn)
    return dynamic_security.drift(_wanted(conn, services), control.accounts())


def reconcile(
    conn: psycopg.Connection[Any], control: BrokerControl, services: list[Account]
) -> Drift:
    """Mend the broker. Returns what was found; `missing` ones are still missing.

    Accounts that should not be are removed, rights and client ids are set again. A missing account
    needs its password's hash, which only the plugin's file can bring (`meterstream up`). Commits.
    """
    lock_accounts(conn)
    wanted, are = _wanted(conn, services), control.accounts()
    found = dynamic_security.drift(wanted, are)
    for name in found.extra:
        control.run(dynamic_security.remove(name))
    should, has = ({one.user_name: one for one in side} for side in (wanted, are))
    for name in found.changed:
        control.run(dynamic_security.mend(should[name], has[name]))
    conn.commit()
    return found


def _wanted(conn: psycopg.Connection[Any], services: list[Account]) -> list[Account]:
    return [account for account, _ in active_accounts(conn)] + services


def _refuse_known(conn: psycopg.Connection[Any], address: str, home_id: str) -> None:
    row = conn.execute(
        "SELECT device_id, home_id FROM device WHERE address = %s", [address]
    ).fetchone()
    if row is None:
        return
    device_id, owner = row
    if owner is not None and owner != home_id:
        raise AlreadyProvisioned(f"{address} belongs to another home; move it there first")
    account = find_account(conn, device_id)
    if account is not None and account.revoked_at is None:
        raise AlreadyProvisioned(
            f"{address} has an account, {account.user_name}; ask for a new token, or revoke it"
        )


def _active(conn: psycopg.Connection[Any], device: DeviceRow) -> AccountRow:
    row = find_account(conn, device.device_id)
    if row is None or row.revoked_at is not None:
        raise NoSuchAccount(f"{device.address} has no account, or it was revoked; provision it")
    return row
