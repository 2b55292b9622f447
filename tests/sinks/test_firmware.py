"""Firmware and its roll-outs in the real database; devices answer as the worker stores it."""

import hashlib
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg.types.json import Jsonb

from schemas.firmware import Manifest
from sinks import firmware, firmware_rollouts
from sinks.firmware_rollouts import RolloutRow, advance, halt, resume, set_percent, start
from streams.firmware.documents import manifest_of, sign_manifest
from streams.firmware.errors import BadImage, BadRollout, NotTrusted, UnknownFirmware
from tests.streams.firmware.test_documents import IMAGE, KEYS, manifest, root

pytestmark = [pytest.mark.stack]

Connection = psycopg.Connection[Any]
URL = "http://127.0.0.1:8080"


@pytest.fixture
def image(db: Connection) -> int:
    """A complete, signed firmware `node` of hardware r1."""
    firmware.add_root(db, root()[1])
    row = add(db, manifest())
    firmware.add_image(db, row.firmware_id, IMAGE)
    return row.firmware_id


def add(db: Connection, said: Manifest) -> firmware.FirmwareRow:
    return firmware.add_manifest(db, sign_manifest(said, KEYS[3]))


def fleet(db: Connection, count: int, model: str = "node") -> list[int]:
    """Claimed nodes of a model."""
    rows = db.execute(
        "INSERT INTO device (address, family, home_id, model) "
        "SELECT 'homesync:h/' || %s || n, 'homesync', 'h', %s FROM generate_series(1, %s) n "
        "RETURNING device_id",
        [model, model, count],
    ).fetchall()
    return [row[0] for row in rows]


def roll(db: Connection, image: int, percent: int = 100, **more: Any) -> RolloutRow:
    made = start(db, image, base_url=URL, percent=Decimal(percent), made_by="user:test", **more)
    advance(db)
    return firmware_rollouts.find(db, made.rollout_id)


def answer(db: Connection, state: str, device_id: int | None = None) -> None:
    """What the command process does when a device, or each, has answered."""
    db.execute(
        "UPDATE command SET state = %s, reason = %s WHERE kind = 'ota' "
        "AND state IN ('accepted', 'received') AND device_id = coalesce(%s, device_id)",
        [state, "damaged" if state == "failed" else None, device_id],
    )


def counts(row: RolloutRow) -> tuple[int, int, int, int]:
    return row.waiting, row.sent, row.done, row.failed


# ---- documents and images ----


def test_an_image_comes_after_its_signed_manifest(db: Connection):
    with pytest.raises(NotTrusted, match="no root"):
        add(db, manifest())
    firmware.add_root(db, root()[1])
    row = add(db, manifest())
    assert (row.product, row.version, row.has_image) == ("node", "2.0", False)
    with pytest.raises(BadImage, match="SHA-256"):
        firmware.add_image(db, row.firmware_id, IMAGE[:-1] + b"\0")
    with pytest.raises(BadImage, match="missing"):
        roll(db, row.firmware_id)
    firmware.add_image(db, row.firmware_id, IMAGE)
    firmware.add_image(db, row.firmware_id, IMAGE)
    assert firmware.find(db, row.firmware_id).has_image
    assert firmware.piece(db, row.sha256, 4096, 4096) == (IMAGE[4096:8192], len(IMAGE))
    assert firmware.piece(db, row.sha256, 10_000, 4096) == (IMAGE[10_000:], len(IMAGE))


def test_what_the_targets_key_has_not_signed_does_not_get_in(db: Connection):
    firmware.add_root(db, root()[1])
    for key in (KEYS[0], KEYS[4]):
        with pytest.raises(NotTrusted):
            firmware.add_manifest(db, sign_manifest(manifest(), key))
    assert firmware.list_all(db) == []


def test_a_version_keeps_its_image_and_its_counter(db: Connection, image: int):
    assert add(db, manifest(expires=2_100_000_000)).firmware_id == image
    assert firmware.list_all(db)[0].expires_at.year == 2036
    with pytest.raises(NotTrusted, match="another image"):
        add(db, msgspec.structs.replace(manifest(), sha256="0" * 64))
    with pytest.raises(NotTrusted, match="already"):
        add(db, manifest(version="3.0"))
    with pytest.raises(NotTrusted, match="counter was 3"):
        add(db, manifest(security_counter=2))


def test_roots_follow_one_another(db: Connection):
    assert firmware.add_root(db, root()[1]).version == 1
    with pytest.raises(NotTrusted):
        firmware.add_root(db, root(3)[1])
    assert firmware.add_root(db, root(2)[1]).version == 2
    assert firmware.add_root(db, root(1)[1]).version == 1
    assert len(firmware.roots(db)) == 2
    assert firmware.newest_root(db).version == 2


def test_nothing_is_of_an_unknown_name(db: Connection):
    for ask in (
        lambda: firmware.find(db, 1),
        lambda: firmware.envelope_of(db, 1),
        lambda: firmware.piece(db, "0" * 64, 0, 1),
        lambda: firmware_rollouts.find(db, 1),
        lambda: roll(db, 1),
    ):
        with pytest.raises(UnknownFirmware):
            ask()


# ---- roll-outs ----


def test_all_devices_of_the_product_are_told_what_they_can_verify(db: Connection, image: int):
    mine = [*fleet(db, 2), *fleet(db, 1, "node/r1")]
    fleet(db, 1, "node/r2")
    fleet(db, 1, "plug")
    db.execute("INSERT INTO device (address, family, model) VALUES ('homesync:x/y', '', 'node')")
    firmware.add_root(db, root(2)[1])
    assert counts(roll(db, image)) == (0, 3, 0, 0)
    told = db.execute("SELECT device_id, kind, issued_by, parameters FROM command").fetchall()
    assert sorted(row[0] for row in told) == sorted(mine)
    _, kind, issued_by, parameters = told[0]
    assert (kind, issued_by) == ("ota", "rule:rollout-1")
    sha256 = firmware.find(db, image).sha256
    assert parameters["url"] == f"{URL}/firmware/{sha256}"
    assert len(parameters["roots"]) == 1
    assert sha256 in parameters["manifest"]["payload"]
    assert len(msgspec.json.encode(parameters)) < 9_000  # a node takes 10,240 bytes in all


def test_the_model_may_be_what_the_device_says_itself(db: Connection, image: int):
    (device_id,) = fleet(db, 1)
    db.execute("UPDATE device SET model = NULL")
    assert counts(roll(db, image)) == (0, 0, 0, 0)
    db.execute(
        "INSERT INTO device_state VALUES (%s, '', 'model', %s, now(), 1)",
        [device_id, Jsonb("node/r1")],
    )
    advance(db)
    assert counts(firmware_rollouts.find(db, 1)) == (0, 1, 0, 0)


def test_a_wider_share_holds_the_narrower(db: Connection, image: int):
    fleet(db, 400)
    made = roll(db, image, 10)
    assert 15 <= made.sent <= 70
    first = chosen(db)
    answer(db, "done")
    advance(db)
    assert chosen(db) == first
    set_percent(db, made.rollout_id, Decimal(50))
    for _ in range(20):
        advance(db)
        answer(db, "done")
    assert first < chosen(db)
    assert 150 <= len(chosen(db)) <= 250
    set_percent(db, made.rollout_id, Decimal(100))
    advance(db)
    assert len(chosen(db)) == 400


def chosen(db: Connection) -> set[int]:
    return {row[0] for row in db.execute("SELECT device_id FROM firmware_rollout_device")}


def test_where_a_device_stands_depends_on_the_image(db: Connection):
    places = [
        row[0]
        for row in db.execute(
            "SELECT rollout_place(image, 'homesync:h/' || n) "
            "FROM (VALUES ('a'), ('b')) AS t (image), generate_series(1, 1000) n "
            "ORDER BY image, n"
        )
    ]
    one, other = places[:1000], places[1000:]
    assert all(0 <= place < 100 for place in places)
    assert 60 <= sum(place < 10 for place in one) <= 140
    assert one != other
    #  sha256("a/homesync:h/1") begins with 4 bytes, of 2 ** 32
    assert one[0] == pytest.approx(int(sha256_of("a/homesync:h/1")[:8], 16) * 100 / 2**32)


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_few_updates_are_under_way_at_once(db: Connection, image: int):
    fleet(db, 120)
    assert counts(roll(db, image)) == (70, 50, 0, 0)
    advance(db)
    assert counts(firmware_rollouts.find(db, 1)) == (70, 50, 0, 0)


def test_too_many_failures_halt_it_and_resuming_forgives_them(db: Connection, image: int):
    fleet(db, 100)
    roll(db, image)
    answer(db, "failed", device_id=sorted(chosen(db))[0])
    under_way = firmware_rollouts.find(db, 1).sent
    advance(db)
    halted = firmware_rollouts.find(db, 1)
    assert (halted.state, halted.reason) == ("halted", "1 of 1 failed; 5 % are allowed")
    assert halted.waiting + halted.sent + halted.failed == 100
    assert halted.sent == under_way - 1
    answer(db, "done")
    advance(db)
    halted = firmware_rollouts.find(db, 1)
    assert (halted.state, halted.sent, halted.done) == ("halted", 0, 49)
    resume(db, 1)
    advance(db)
    going = firmware_rollouts.find(db, 1)
    assert (going.state, going.sent, going.failed) == ("running", 50, 1)
    answer(db, "done")
    advance(db)
    assert firmware_rollouts.find(db, 1).state == "running"


def test_a_device_that_was_away_is_asked_again_and_one_that_went_silent_has_failed(
    db: Connection, image: int
):
    away, silent = fleet(db, 2)
    roll(db, image, max_failed_percent=Decimal(100))
    answer(db, "received", device_id=silent)
    answer(db, "expired")
    advance(db)
    assert counts(firmware_rollouts.find(db, 1)) == (1, 0, 0, 1)
    by_id = {one.device_id: one for one in firmware_rollouts.devices(db, 1, 0, 10)}
    assert by_id[silent].reason == "it began and was not heard of again"
    assert (by_id[away].status, by_id[away].attempts) == ("waiting", 1)
    db.execute("UPDATE firmware_rollout_device SET next_try_at = now()")
    advance(db)
    assert counts(firmware_rollouts.find(db, 1)) == (0, 1, 0, 1)


def test_a_device_that_was_given_up_and_says_done_after_all_is_done(db: Connection, image: int):
    fleet(db, 1)
    roll(db, image, max_failed_percent=Decimal(100))
    answer(db, "received")
    answer(db, "expired")
    advance(db)
    assert counts(firmware_rollouts.find(db, 1)) == (0, 0, 0, 1)
    db.execute("UPDATE command SET late_answer = 'done'")
    advance(db)
    assert counts(firmware_rollouts.find(db, 1)) == (0, 0, 1, 0)


def test_an_offline_device_waits_and_counts_as_nothing(db: Connection, image: int):
    (device_id,) = fleet(db, 1)
    db.execute("INSERT INTO device_state VALUES (%s, '', 'online', 'false', now(), 1)", [device_id])
    assert counts(roll(db, image)) == (1, 0, 0, 0)
    (one,) = firmware_rollouts.devices(db, 1, 0, 10)
    assert one.reason is not None
    assert "offline" in one.reason
    db.execute("UPDATE device_state SET value = 'true'")
    db.execute("UPDATE firmware_rollout_device SET next_try_at = now()")
    advance(db)
    assert counts(firmware_rollouts.find(db, 1)) == (0, 1, 0, 0)


def test_another_image_for_the_same_hardware_takes_its_place(db: Connection, image: int):
    roll(db, image)
    other = bytes(5000)
    said = manifest_of(
        other,
        product="node",
        hw_rev="r1",
        version="3.0",
        security_counter=4,
        created=1,
        expires=2_000_000_000,
        signer=KEYS[3].public_key(),
    )
    row = add(db, said)
    firmware.add_image(db, row.firmware_id, other)
    roll(db, row.firmware_id)
    assert firmware_rollouts.find(db, 1).state == "stopped"
    for change in (
        lambda: resume(db, 1),
        lambda: halt(db, 1, "late"),
        lambda: set_percent(db, 1, Decimal(1)),
    ):
        with pytest.raises(BadRollout, match="is over"):
            change()


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": "https://x"},
        {"base_url": "http://x/"},
        {"percent": Decimal(101)},
        {"percent": Decimal("NaN")},
        {"max_failed_percent": Decimal(-1)},
        {"least_results": 0},
    ],
)
def test_a_roll_out_that_cannot_be_is_refused(db: Connection, image: int, wrong: dict[str, Any]):
    with pytest.raises(BadRollout):
        start(db, image, **({"base_url": URL, "percent": Decimal(1), "made_by": "user:x"} | wrong))
    assert firmware_rollouts.list_all(db) == []
