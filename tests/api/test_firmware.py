"""Firmware over the API: in as signed, out in pieces, rolled out."""

import hashlib
from typing import Any

import httpx
import msgspec
import pytest

from api.problems import ProblemDocument
from schemas.firmware import MOST_IMAGE_BYTES
from sinks.firmware_rollouts import advance
from streams.firmware.documents import sign_manifest
from tests.api.conftest import Rows
from tests.streams.firmware.test_documents import IMAGE, KEYS, manifest, root

pytestmark = [pytest.mark.stack, pytest.mark.anyio]

SHA256 = hashlib.sha256(IMAGE).hexdigest()
SIGNED = msgspec.to_builtins(sign_manifest(manifest(), KEYS[3]))


async def ask(
    client: httpx.AsyncClient, method: str, path: str, status: int = 200, **more: Any
) -> Any:
    answer = await client.request(method, path, **more)
    assert answer.status_code == status, answer.text
    if status >= 400:
        ProblemDocument.model_validate_json(answer.content)
    return answer.json() if answer.content else None


@pytest.fixture
async def image(client: httpx.AsyncClient, rows: Rows) -> str:
    """The path of a complete firmware."""
    await ask(client, "POST", "/api/v1/firmware-roots", json=msgspec.to_builtins(root()[1]))
    made = await ask(client, "POST", "/api/v1/firmware", 201, json=SIGNED)
    assert (made["version"], made["has_image"]) == ("2.0", False)
    path = f"/api/v1/firmware/{made['firmware_id']}"
    await ask(client, "PUT", f"{path}/image", 204, content=IMAGE)
    return path


async def test_what_nobody_signed_is_refused(client: httpx.AsyncClient, rows: Rows):
    await ask(client, "POST", "/api/v1/firmware-roots", json=msgspec.to_builtins(root()[1]))
    unsigned = SIGNED | {"signatures": []}
    refused = await ask(client, "POST", "/api/v1/firmware", 422, json=unsigned)
    assert refused["type"].endswith(":not-trusted")
    await ask(client, "POST", "/api/v1/firmware", 422, json=SIGNED | {"payload": "{}"})
    await ask(client, "POST", "/api/v1/firmware", 422, json=SIGNED | {"payload": "a\0"})
    assert (await ask(client, "GET", "/api/v1/firmware")) == {"items": []}


async def test_only_the_signed_bytes_are_kept(client: httpx.AsyncClient, rows: Rows, image: str):
    for wrong in (b"", IMAGE[:-1], IMAGE + b"\0"):
        refused = await ask(client, "PUT", f"{image}/image", 422, content=wrong)
        assert refused["type"].endswith(":bad-image")
    await ask(client, "PUT", "/api/v1/firmware/77/image", 404, content=IMAGE)


async def test_a_body_larger_than_any_image_is_cut_off(
    client: httpx.AsyncClient, rows: Rows, image: str
):
    async def endless() -> Any:
        for _ in range(10_000):
            yield bytes(65_536)

    await ask(client, "PUT", f"{image}/image", 413, content=endless())
    large = bytes(MOST_IMAGE_BYTES + 1)
    await ask(client, "PUT", f"{image}/image", 413, content=large)


async def test_a_node_fetches_pieces_without_a_token(
    client: httpx.AsyncClient, rows: Rows, image: str
):
    del client.headers["Authorization"]
    whole = await client.get(f"/firmware/{SHA256}")
    assert (whole.status_code, whole.content) == (200, IMAGE)
    piece = await client.get(f"/firmware/{SHA256}", headers={"Range": "bytes=4096-8191"})
    assert (piece.status_code, piece.content) == (206, IMAGE[4096:8192])
    assert piece.headers["content-range"] == f"bytes 4096-8191/{len(IMAGE)}"
    end = await client.get(f"/firmware/{SHA256}", headers={"Range": "bytes=10000-99999"})
    assert (end.status_code, end.content) == (206, IMAGE[10_000:])
    for wrong in ("bytes=10240-20000", "bytes=9-8"):
        refused = await client.get(f"/firmware/{SHA256}", headers={"Range": wrong})
        assert refused.status_code == 416
    for unknown in ("0" * 64, SHA256.upper(), "x", SHA256[:-1]):
        assert (await client.get(f"/firmware/{unknown}")).status_code in (404, 422)
    assert (await client.get("/api/v1/firmware")).status_code == 401


async def test_a_roll_out_is_started_widened_halted_and_resumed(
    client: httpx.AsyncClient, rows: Rows, image: str
):
    for number in range(3):
        rows.device(f"homesync:h/n{number}", home_id="h", model="node")
    wanted = {"percent": 0, "base_url": "http://127.0.0.1:8080"}
    made = await ask(client, "POST", f"{image}/rollouts", 201, json=wanted)
    assert (made["state"], made["made_by"]) == ("running", "user:operator")
    path = f"/api/v1/rollouts/{made['rollout_id']}"
    advance(rows.conn)
    assert (await ask(client, "GET", path))["sent"] == 0
    await ask(client, "PATCH", path, json={"percent": 100})
    advance(rows.conn)
    assert (await ask(client, "GET", path))["sent"] == 3
    devices = await ask(client, "GET", f"{path}/devices", params={"limit": 2})
    assert [one["status"] for one in devices["items"]] == ["sent", "sent"]
    halted = await ask(client, "PATCH", path, json={"state": "halted"})
    assert (halted["state"], halted["reason"]) == ("halted", "user:operator")
    resumed = await ask(client, "PATCH", path, json={"state": "running"})
    assert (resumed["state"], resumed["reason"]) == ("running", None)
    assert len((await ask(client, "GET", "/api/v1/rollouts"))["items"]) == 1
    await ask(client, "GET", "/api/v1/rollouts/9", 404)
    await ask(client, "PATCH", path, 422, json={"percent": 101})
    await ask(client, "POST", f"{image}/rollouts", 422, json=wanted | {"base_url": "ftp://x"})
