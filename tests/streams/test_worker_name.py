"""A worker's name: one process has it, and a stopped one loses it."""

import subprocess
import sys
import threading
import time

import psycopg
import pytest

from infra.local import Stack
from streams.app import SILENT_S, hold_worker_id

pytestmark = pytest.mark.stack


def test_a_silent_holder_loses_the_name_and_its_connection(stack: Stack):
    url = stack.database_url
    stopped = hold_worker_id(url, "silent-1")
    begun = time.monotonic()
    with hold_worker_id(url, "silent-1") as held:
        assert SILENT_S <= time.monotonic() - begun < SILENT_S + 2
        assert held.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError):
            stopped.execute("SELECT 1")
    stopped.close()


_HOLDER = """
import sys
from streams.app import hold_worker_id, keep_worker_id
held = hold_worker_id(sys.argv[1], sys.argv[2])
print("held", flush=True)
keep_worker_id(held, sys.argv[1], sys.argv[2])
"""


def test_a_holder_that_says_so_keeps_the_name_until_it_ends(stack: Stack):
    url = stack.database_url
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, url, "living-1"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        got: list[psycopg.Connection[object]] = []
        other = threading.Thread(target=lambda: got.append(hold_worker_id(url, "living-1")))
        other.start()
        other.join(SILENT_S + 3)
        assert got == []
    finally:
        holder.kill()
        holder.communicate()
    other.join(5)
    assert len(got) == 1
    got[0].close()


def test_silence_of_one_worker_does_not_end_another(stack: Stack):
    url = stack.database_url
    with hold_worker_id(url, "silent-2") as silent:
        time.sleep(SILENT_S + 0.5)
        with hold_worker_id(url, "silent-3"):
            assert silent.execute("SELECT 1").fetchone() == (1,)
