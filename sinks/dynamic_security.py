"""Accounts as Mosquitto's dynamic-security plugin (2.0) stores them and is told of them.

Pure. A client has one role of its own name: this version fills no user's name into a role's topics.
Source: mosquitto.org/documentation/dynamic-security; `plugins/dynamic-security/*.c` of 2.0.21.
"""

import base64
import hashlib
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from schemas.mqtt_rights import Rights

Command = dict[str, Any]

ADMIN = "meterstream-admin"
_CONTROL = "$CONTROL/dynamic-security/#"
_ADMIN_RIGHTS = Rights((_CONTROL,), (_CONTROL,))

# Tokens have 256 random bits, so few rounds: the broker hashes in its one thread. 101 rounds and
# 12 bytes of salt are what 2.0 itself makes and takes.
ROUNDS, _SALT_BYTES = 101, 12

_EVERYTHING = ("#", "$SYS/#")
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
    """An account as the broker has it. `client_id` None: any (of services with several shards).

    `other_roles`: those beside the one of its name, which none of ours has.
    """

    user_name: str
    client_id: str | None
    rights: Rights
    enabled: bool = True
    other_roles: tuple[str, ...] = ()


_UNKNOWN = Rights(("?",), ("?",))  # equals no account of ours
_NOBODY = Account("anonymous", None, Rights(("#",), _EVERYTHING))


def hash_password(password: str) -> Hash:
    salt = secrets.token_bytes(_SALT_BYTES)
    return Hash(hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ROUNDS), salt, ROUNDS)


def document(
    accounts: Iterable[tuple[Account, Hash]], admin: Hash, *, anonymous: bool
) -> dict[str, Any]:
    """The whole file of the plugin: these accounts, and who may change them.

    `anonymous`: clients without a user name, where the broker lets them in, may do anything but
    that.
    """
    every = [(Account(ADMIN, None, _ADMIN_RIGHTS), admin), *accounts]
    whole: dict[str, Any] = {
        "defaultACLAccess": _DEFAULT_ACCESS,
        "clients": [_client(account) | _stored(hash) for account, hash in every],
        "groups": [],
        "roles": [_role(account) for account, _ in every],
    }
    if anonymous:
        group = {"groupname": _NOBODY.user_name, "roles": [{"rolename": _NOBODY.user_name}]}
        whole["groups"].append(group)
        whole["roles"].append(_role(_NOBODY))
        whole["anonymousGroup"] = _NOBODY.user_name
    return whole


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


def mend(account: Account, found: Account) -> list[Command]:
    """Give an account its client id and rights again; its password stays. Tolerate NOT_THERE.

    A role that is deleted while a client has it stays with the client, and `modifyClient` with
    roles adds them to those it has: so they are taken from it first, one by one.
    """
    user = account.user_name
    return [
        *(
            {"command": "removeClientRole", "username": user, "rolename": role}
            for role in (user, *found.other_roles)
        ),
        {"command": "deleteRole", "rolename": user},
        {"command": "createRole", **_role(account)},
        {"command": "addClientRole", "username": user, "rolename": user},
        {"command": "setClientId", "username": user, "clientid": account.client_id or ""},
        {"command": "enableClient", "username": user},
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
            user,
            client.get("clientid") or None,
            rights.get(user) or _UNKNOWN,
            not client.get("disabled", False),
            tuple(role["rolename"] for role in client["roles"] if role["rolename"] != user),
        )
        for client in clients
        if (user := client["username"]) != ADMIN
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


def _comparable(account: Account) -> Account:
    publish, subscribe = account.rights
    return account._replace(rights=Rights(_sorted(publish), _sorted(subscribe)))


def _sorted(topics: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(topics)))


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
    return Rights(_sorted(publish), _sorted(subscribe))
