"""`meterstream firmware`, from keys to a roll-out, in a real database."""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.cli import firmware
from infra.local import Stack
from sinks.firmware_rollouts import advance
from tests.databases import emptied, migrated_database
from tests.infra.command_line import CommandLine

pytestmark = pytest.mark.stack

BAD_INPUT_EXIT = 65
URL = "http://127.0.0.1:8080"


@pytest.fixture(scope="module")
def database_url(stack: Stack) -> str:
    return migrated_database(stack, "firmware_tests")


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        emptied(connection, "firmware", "firmware_root", "device")
        yield connection


@pytest.fixture
def run(database_url: str, conn: psycopg.Connection) -> Any:
    return CommandLine(database_url, firmware)


@pytest.fixture
def bench(run: Any, tmp_path: Path) -> Path:
    """A folder with keys, a root, an image and its manifest."""
    for name in ("root-1", "root-2", "root-3", "targets"):
        run("firmware", "keygen", str(tmp_path / name))
    make_root(run, tmp_path, "root.json", "root-1", "root-2")
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "application.py").write_text("NAME = 'new'\n")
    (tmp_path / "node" / "notes.txt").write_text("stays here")
    run("firmware", "pack", str(tmp_path / "node"), str(tmp_path / "node.img"))
    sign(run, tmp_path, "node.json")
    return tmp_path


def test_modules_are_packed_as_bytecode_and_the_bootloader_stays_out(run: Any, tmp_path: Path):
    for name in ("node/node.py", "ota/boot.py", "main.py"):
        (tmp_path / "firmware" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "firmware" / name).write_text("VERSION = '1.0'\n")
    run("firmware", "pack", str(tmp_path / "firmware"), str(tmp_path / "node.img"))
    image = (tmp_path / "node.img").read_bytes()
    assert image[4:6] == b"\0\1"
    assert image[6:20] == b"\x0dnode/node.mpy"
    run("firmware", "pack", str(tmp_path / "firmware"), str(tmp_path / "source.img"), "--source")
    assert (tmp_path / "source.img").read_bytes().endswith(b"VERSION = '1.0'\n")


def test_a_module_that_is_no_micropython_is_told_before_it_is_signed(run: Any, tmp_path: Path):
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "node.py").write_text("def broken(:\n")
    done = run(
        "firmware", "pack", str(tmp_path / "node"), str(tmp_path / "x.img"), code=BAD_INPUT_EXIT
    )
    assert "node.py is no MicroPython" in done
    assert not (tmp_path / "x.img").exists()


def as_json(run: Any, *arguments: str) -> Any:
    return run(*arguments, "--json")


def make_root(
    run: Any, folder: Path, into: str, *signers: str, version: int = 1, fails_with: int = 0
) -> Any:
    options = [f"--root-key={folder / name}.pub" for name in ("root-1", "root-2", "root-3")]
    options += [f"--targets-key={folder / 'targets'}.pub", f"--version={version}"]
    options += [f"--sign-with={folder / name}" for name in signers]
    return run("firmware", "root", str(folder / into), *options, code=fails_with)


def sign(run: Any, folder: Path, into: str, key: str = "targets", fails_with: int = 0) -> Any:
    options = ["--product=node", "--hw-rev=r1", "--version=2.0", "--counter=3"]
    return run(
        "firmware", "sign", str(folder / "node.img"), str(folder / into),
        f"--key={folder / key}", *options, code=fails_with,
    )  # fmt: skip


def test_from_keys_to_a_roll_out(run: Any, conn: psycopg.Connection, bench: Path):
    made = as_json(run, 
        "firmware", "publish", str(bench / "node.json"), str(bench / "node.img"),
        f"--root={bench / 'root.json'}",
    )  # fmt: skip
    assert (made["product"], made["version"], made["has_image"]) == ("node", "2.0", True)
    assert as_json(run, "firmware", "list") == [made]
    conn.execute(
        "INSERT INTO device (address, family, home_id, model) "
        "SELECT 'homesync:h/' || n, 'homesync', 'h', 'node' FROM generate_series(1, 40) n"
    )
    number = str(made["firmware_id"])
    begun = as_json(run, "firmware", "rollout", number, "--percent", "20", "--url", URL)
    advance(conn)
    few = as_json(run, "firmware", "status", str(begun["rollout_id"]))
    assert 1 <= few["sent"] == len(few["devices"]) <= 20
    wider = as_json(run, "firmware", "rollout", number, "--percent", "100", "--url", URL)
    assert wider["rollout_id"] == begun["rollout_id"]
    advance(conn)
    assert as_json(run, "firmware", "status")[0]["sent"] == 40
    assert as_json(run, "firmware", "halt", str(begun["rollout_id"]))["state"] == "halted"
    assert as_json(run, "firmware", "resume", str(begun["rollout_id"]))["state"] == "running"
    run("firmware", "status", "99", code=BAD_INPUT_EXIT)


def test_secrets_are_for_their_owner_and_never_overwritten(run: Any, bench: Path):
    secret = bench / "targets"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    before = secret.read_bytes()
    run("firmware", "keygen", str(secret), code=BAD_INPUT_EXIT)
    assert secret.read_bytes() == before


def test_what_is_not_signed_as_it_must_be_is_refused(run: Any, bench: Path):
    publish = ("firmware", "publish", str(bench / "bad.json"), str(bench / "node.img"))
    run("firmware", "publish", f"--root={bench / 'root.json'}")
    sign(run, bench, "bad.json", key="root-1")
    run(*publish, code=BAD_INPUT_EXIT)
    (bench / "bad.json").write_text("{}")
    run(*publish, code=BAD_INPUT_EXIT)
    sign(run, bench, "x.json", key="targets.pub", fails_with=BAD_INPUT_EXIT)
    assert as_json(run, "firmware", "list") == []


def test_an_image_changed_after_signing_leaves_nothing_behind(run: Any, bench: Path):
    (bench / "node.img").write_bytes((bench / "node.img").read_bytes() + b"\0")
    run(
        "firmware", "publish", str(bench / "node.json"), str(bench / "node.img"),
        f"--root={bench / 'root.json'}", code=BAD_INPUT_EXIT,
    )  # fmt: skip
    assert as_json(run, "firmware", "list") == []


def test_keys_on_two_machines_sign_one_root(run: Any, bench: Path):
    alone = bench / "alone.json"
    make_root(run, bench, "alone.json", "root-3")
    run("firmware", "publish", f"--root={alone}", code=BAD_INPUT_EXIT)
    run("firmware", "node-root", str(alone), str(bench / "root.0"), code=BAD_INPUT_EXIT)
    said = run("firmware", "cosign", str(alone), f"--key={bench / 'root-1'}")
    assert said == "signed by 2; 2 are needed\n"
    run("firmware", "publish", f"--root={alone}")
    run("firmware", "node-root", str(alone), str(bench / "root.0"))
    assert (bench / "root.0").stat().st_size > 500


def test_the_next_root_is_signed_by_two_of_three(run: Any, bench: Path):
    run("firmware", "publish", f"--root={bench / 'root.json'}")
    make_root(run, bench, "second.json", "root-2", "root-3", version=2)
    run("firmware", "publish", f"--root={bench / 'second.json'}")
    make_root(run, bench, "fourth.json", "root-1", "root-2", version=4)
    run("firmware", "publish", f"--root={bench / 'fourth.json'}", code=BAD_INPUT_EXIT)
