"""`python -m api` as a process: its settings, its log, its end, and a database that goes away."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from api.settings import ApiSettings
from infra.local import Stack

TOKEN = "a-token-of-a-process"


def environment(**own: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "METERSTREAM" not in name}
    return kept | {f"METERSTREAM_{name}": value for name, value in own.items()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)


def test_what_draws_pages_waits_until_a_page_is_wanted():
    """It would be a third of the start, with which a killed API is back."""
    look = "import sys, api.__main__; print('fpdf' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", look], text=True) == "False\n"


def test_without_a_token_it_refuses_to_start():
    done = subprocess.run(
        [sys.executable, "-m", "api"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 78
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["error"].startswith("no token: set METERSTREAM_API_TOKEN, or ")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file"),
        ("", "no token"),
        (" \n", "no token"),
        ("two words", "ASCII"),
        ("schlüssel", "not ASCII"),
    ],
)
def test_a_token_file_without_a_usable_token_is_refused(
    tmp_path: Path, content: str | None, complaint: str
):
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=complaint) as raised:
        ApiSettings(token_file=path)
    assert content is None or len(content) < 3 or content not in str(raised.value)


def test_the_token_comes_from_the_setting_else_from_the_file(tmp_path: Path):
    path = tmp_path / "token"
    path.write_text("of-the-file\n")
    assert ApiSettings(token_file=path).bearer_token() == "of-the-file"
    both = ApiSettings.model_validate({"token_file": path, "token": "of-the-setting"})
    assert both.bearer_token() == "of-the-setting"
    assert "of-the-setting" not in repr(both)


def test_hosts_are_given_with_commas(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("METERSTREAM_API_TOKEN", TOKEN)
    monkeypatch.setenv("METERSTREAM_API_ALLOWED_HOSTS", "example.org, *.example.net")
    assert ApiSettings().allowed_hosts == ("example.org", "*.example.net")
    monkeypatch.setenv("METERSTREAM_API_ALLOWED_HOSTS", "*example.net")
    with pytest.raises(ValueError, match=r"\*\.example\.org"):
        ApiSettings()


@pytest.fixture
def process(
    stack: Stack, migrated: str, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client, Path]]:
    token, log, port = tmp_path / "token", tmp_path / "log", free_port()
    token.write_text(TOKEN + "\n")
    with log.open("wb") as out:
        running = subprocess.Popen(
            [sys.executable, "-m", "api"],
            env=environment(API_TOKEN_FILE=str(token), API_PORT=str(port), DATABASE_URL=migrated),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:

        def answers() -> bool:
            assert running.poll() is None, log.read_text()
            try:
                return client.get("/health").status_code == 200
            except httpx.TransportError:
                return False

        try:
            until(answers)
            yield running, client, log
        finally:
            running.kill()
            running.wait()


@pytest.mark.stack
def test_it_serves_logs_and_ends_cleanly(process, rows):
    running, client, log = process
    device = rows.device("shelly:a/b", name="first")
    assert client.get("/api/v1/devices").json()["items"][0]["id"] == device
    assert client.get("/api/v1/devices/shelly:a%2Fb").json()["name"] == "first"
    assert client.get("/api/v1/devices/shelly:a%2Fb/readings").json()["items"] == []
    answer = client.get("/api/v1/devices", headers={"Authorization": "Bearer wrong"})
    assert answer.status_code == 401
    bad_host = client.get("/api/v1/devices", headers={"Host": "evil.example"})
    assert (bad_host.status_code, bad_host.json()["title"]) == (400, "Bad host")
    assert "server" not in answer.headers

    running.send_signal(signal.SIGTERM)

    assert running.wait(20) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert requests[0]["route"] == "/api/v1/devices"
    assert requests[0]["status"] == 200
    assert {"ms", "request_id", "timestamp", "level"} < set(requests[0])
    assert TOKEN not in log.read_text()


@pytest.mark.stack
def test_it_outlives_the_database(process, rows, stack: Stack):
    _, client, _ = process
    rows.stream(12, None)
    rows.conn.execute("UPDATE stream_progress SET stream_time = now() + INTERVAL '1 hour'")
    until(lambda: client.get("/ready").status_code == 200)
    stack.stop_process("timescale")
    try:
        answer = client.get("/api/v1/devices", timeout=20)
        assert (answer.status_code, answer.json()["title"]) == (503, "Database away")
        assert answer.headers["retry-after"] == "2"
        until(lambda: client.get("/ready").status_code == 503)
        assert client.get("/health").status_code == 200
    finally:
        stack.start_process("timescale")
        stack.wait_ready("timescale")
    until(lambda: client.get("/api/v1/devices", timeout=20).status_code == 200)
    until(lambda: client.get("/ready").status_code == 200)
