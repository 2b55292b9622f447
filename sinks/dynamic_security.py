"""Accounts as Mosquitto's dynamic-security plugin (2.0) stores them and is told of them.

Pure. A client has one role of its own name: this version fills no user's name into a role's topics.
Source: mosquitto.org/documentation/dynamic-security; `plugins/dynamic-security/*.c` of 2.0.21.
"""

import base64
import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from schemas.mqtt_rights import Rights

Command = dict[str, Any]

ADMIN = "meterstream-admin"
_CONTROL = "$CONTROL/dynamic-security/#"
_ADMIN_RIGHTS = Rights((_CONTROL,), (_CONTROL,))

# Tokens have 256 random bits, so few rounds: the broker hashes in its one thread. 101 rounds and
# 12 bytes of salt are what 2.0 itself makes and takes.
ROUNDS, _SALT_BYTES = 101, 12

_DEFAULT_ACCESS = {
    "publishClientSend": False,
    "publishClientReceive": False,
    "subscribe": False,
    "unsubscribe": True,
}


class Hash(NamedTuple):
    """PBKDF2-SHA512 of a password."""

    digest: bytes
    salt: bytes
    rounds: int


class Account(NamedTuple):
    """An account as the broker has it. `client_id` None: any (of services with several shards)."""

    user_name: str
    client_id: str | None
    rights: Rights
    enabled: bool = True


def hash_password(password: str) -> Hash:
    salt = secrets.token_bytes(_SALT_BYTES)
    return Hash(hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ROUNDS), salt, ROUNDS)


def document(accounts: Iterable[tuple[Account, Hash]], admin: Hash) -> dict[str, Any]:
    """The whole file of the plugin: these accounts, and who may change them."""
    every = [(Account(ADMIN, None, _ADMIN_RIGHTS), admin), *accounts]
    return {
        "defaultACLAccess": _DEFAULT_ACCESS,
        "clients": [_client(account) | _stored(hash) for account, hash in every],
        "groups": [],
        "roles": [_role(account) for account, _ in every],
    }


# ---------------------------------------------------------------- commands


def create(account: Account, password: str) -> list[Command]:
    """Make an account, in place of what is left of one of this name."""
    client = _client(account) | {"command": "createClient", "password": password}
    return [*remove(account.user_name), {"command": "createRole", **_role(account)}, client]


def set_password(user_name: str, password: str) -> list[Command]:
    """Also ends the account's connection."""
    return [{"command": "setClientPassword", "username": user_name, "password": password}]


def remove(user_name: str) -> list[Command]:
    """Also ends the account's connection. Tolerate NOT_THERE."""
    return [
        {"command": "deleteClient", "username": user_name},
        {"command": "deleteRole", "rolename": user_name},
    ]


def mend(account: Account) -> list[Command]:
    """Give an account its client id and rights again; its password stays. Tolerate NOT_THERE."""
    return [
        {"command": "deleteRole", "rolename": account.user_name},
        {"command": "createRole", **_role(account)},
        _client(account) | {"command": "modifyClient"},
        {"command": "enableClient", "username": account.user_name},
    ]


NOT_THERE = frozenset({"Client not found", "Role not found"})
"""Errors of a removal that mean that it is done already."""


# ---------------------------------------------------------------- what the broker has


def known(
    clients: Iterable[Mapping[str, Any]], roles: Iterable[Mapping[str, Any]]
) -> list[Account]:
    """The accounts of answers to verbose `listClients` and `listRoles`, without the admin's."""
    rights = {role["rolename"]: _rights(role.get("acls", [])) for role in roles}
    return [
        Account(
            client["username"],
            client.get("clientid") or None,
            _sum_of([rights.get(role["rolename"]) for role in client.get("roles", [])]),
            not client.get("disabled", False),
        )
        for client in clients
        if client["username"] != ADMIN
    ]


class Drift(NamedTuple):
    """Where the broker differs from what should be; user names, sorted."""

    extra: list[str]
    missing: list[str]
    changed: list[str]

    def __bool__(self) -> bool:
        return any(self)


def drift(wanted: Iterable[Account], found: Iterable[Account]) -> Drift:
    should = {account.user_name: account for account in wanted}
    are = {account.user_name: account for account in found}
    return Drift(
        extra=sorted(are.keys() - should.keys()),
        missing=sorted(should.keys() - are.keys()),
        changed=sorted(
            name
            for name in should.keys() & are.keys()
            if _comparable(should[name]) != _comparable(are[name])
        ),
    )


def _comparable(account: Account) -> object:
    publish, subscribe = account.rights
    return account.client_id, set(publish), set(subscribe), account.enabled


def _client(account: Account) -> dict[str, Any]:
    bound = {} if account.client_id is None else {"clientid": account.client_id}
    return {"username": account.user_name, "roles": [{"rolename": account.user_name}], **bound}


def _stored(hash: Hash) -> dict[str, Any]:
    return {
        "password": base64.b64encode(hash.digest).decode(),
        "salt": base64.b64encode(hash.salt).decode(),
        "iterations": hash.rounds,
    }


def _role(account: Account) -> dict[str, Any]:
    publish, subscribe = account.rights
    allowed = [
        *(("publishClientSend", topic) for topic in publish),
        *(("publishClientReceive", topic) for topic in subscribe),
        *(("subscribePattern", topic) for topic in subscribe),
    ]
    acls = [{"acltype": kind, "topic": topic, "allow": True} for kind, topic in allowed]
    return {"rolename": account.user_name, "acls": acls}


def _rights(acls: Iterable[Mapping[str, Any]]) -> Rights | None:
    """None if the access lists are not of our making."""
    found: dict[str, set[str]] = {}
    for acl in acls:
        if not acl.get("allow"):
            return None
        found.setdefault(acl["acltype"], set()).add(acl["topic"])
    publish = found.pop("publishClientSend", set())
    subscribe = found.pop("subscribePattern", set())
    if found.pop("publishClientReceive", set()) != subscribe or found:
        return None
    return Rights(tuple(sorted(publish)), tuple(sorted(subscribe)))


def _sum_of(rights: Sequence[Rights | None]) -> Rights:
    """Those of an account's only role; what is anything else equals no account of ours."""
    only = rights[0] if len(rights) == 1 else None
    return only if only is not None else Rights(("?",), ("?",))
