"""One device's status over HTTP: its bytes as they are, or why there are none."""

import re
from pathlib import Path

import httpx

from ingest.decoders.json_bounds import MAX_BYTES

TIMEOUT_S = 5.0
USER = "admin"  # a Shelly has no other
_HOST = re.compile(
    r"[A-Za-z0-9.-]{1,253}(?::\d{1,5})?|\[[0-9A-Fa-f:]{2,45}\](?::\d{1,5})?", re.ASCII
)
_SECRET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", re.ASCII)


class CannotAsk(Exception):
    """The device did not answer as it should, or cannot be asked; the text says why."""


def can_be_asked(address: str) -> bool:
    """Whether devices of this family have a status that is asked over HTTP."""
    return address.partition(":")[0] in _FAMILIES


def require_host(host: str) -> str:
    """A name or an address, with or without a port. Raises CannotAsk."""
    if not _HOST.fullmatch(host):
        raise CannotAsk(f"{host!r:.80} is no host; give name[:port]")
    return host


def require_secret_name(name: str) -> str:
    """The name of a file, without a folder. Raises CannotAsk."""
    if not _SECRET_NAME.fullmatch(name):
        raise CannotAsk(f"{name!r:.80} is no name of a file")
    return name


def password_in(folder: Path, name: str) -> str:
    """The password in a file of the folder of secrets. Raises CannotAsk."""
    try:
        return (folder / require_secret_name(name)).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise CannotAsk(f"the secret {name} cannot be read: {reason}") from None


class StatusClient:
    """Asks one device. Its digest goes on counting, so a device need not refuse each first try."""

    def __init__(self, address: str, host: str, password: str | None) -> None:
        family, _, name = address.partition(":")
        path, topic = _FAMILIES[family]
        self.topic = topic.format(name)
        self._url = f"http://{require_host(host)}{path}"
        self._client = httpx.AsyncClient(
            auth=_auth(family, password),
            timeout=TIMEOUT_S,
            trust_env=False,  # a device is asked itself, never through a proxy
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=0),
        )

    async def fetch(self) -> bytes:
        """The body of the answer, of 64 KiB at most. Raises CannotAsk."""
        body = bytearray()
        try:
            async with self._client.stream("GET", self._url) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise CannotAsk(f"it answers {answer.status_code}")
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise CannotAsk(f"it answers more than {MAX_BYTES} bytes")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise CannotAsk(f"{type(error).__name__}: {error}") from error
        return bytes(body)

    async def close(self) -> None:
        await self._client.aclose()


def _auth(family: str, password: str | None) -> httpx.Auth | None:
    """Gen1 knows the basic scheme, Gen2 the digest with SHA-256 (RFC 7616)."""
    if password is None:
        return None
    if family == "shelly1":
        return httpx.BasicAuth(USER, password)
    return httpx.DigestAuth(USER, password)


_FAMILIES = {
    "shelly": ("/rpc/Shelly.GetStatus", "poll/shelly/{}/status"),
    "shelly1": ("/status", "poll/shellies/{}/status"),
}
"""Path of the status, and the topic under which it stands in the raw log."""
