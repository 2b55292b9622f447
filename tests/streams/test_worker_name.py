"""A worker's name: one process has it, and a stopped one loses it."""

import signal
import subprocess
import sys
import threading
import time

import psycopg
import pytest

from infra.local import Stack
from streams.app import SILENT_S, hold_worker_id, keep_worker_id
from streams.pipeline import EXIT_FENCED

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
import sys, threading
from streams.app import hold_worker_id, keep_worker_id
held = hold_worker_id(sys.argv[1], sys.argv[2])
print("held", flush=True)
keep_worker_id(held, sys.argv[1], sys.argv[2], threading.Event())
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


def test_who_was_stopped_and_has_lost_the_name_ends_at_once(stack: Stack):
    url = stack.database_url
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, url, "woken-1"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGSTOP)
        with hold_worker_id(url, "woken-1") as held:
            holder.send_signal(signal.SIGCONT)
            assert holder.wait(timeout=5) == EXIT_FENCED
            assert held.execute("SELECT 1").fetchone() == (1,)
    finally:
        holder.kill()
        holder.communicate()


def test_a_connection_that_was_cut_is_no_other_holder(stack: Stack):
    url = stack.database_url
    named = threading.Event()
    held = hold_worker_id(url, "cut-1")
    pid = held.info.backend_pid
    keeper = threading.Thread(target=keep_worker_id, args=(held, url, "cut-1", named), daemon=True)
    keeper.start()
    assert named.wait(5)
    named.clear()
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SELECT pg_terminate_backend(%s)", [pid])
        assert named.wait(SILENT_S + 5)  # else this process would have ended
        holders = conn.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'cut-1'"
        ).fetchall()
    assert holders
    assert (pid,) not in holders
