"""The `meterstream` command: one module per group of commands, each with `register(app)`.

A module imports at its top only what its help needs; the rooms it drives are imported inside
its commands, so that `meterstream up` works while another room does not.
"""

import importlib
import signal
import sys

import typer

from infra.local.errors import StackError

MODULES = tuple(
    f"infra.cli.{name}"
    for name in (
        "stack",
        "run",
        "decode",
        "replay",
        "import_",
        "usage",
        "registers",
        "trace",
        "rate",
        "tariffs",
        "prices",
        "bill",
        "utility_bill",
        "homes",
        "analyse",
        "budget",
        "devices",
        "device_owners",
        "device_setup",
        "device_group",
        "commands",
        "firmware",
        "poll",
        "load",
        "verify",
        "simulate",
        "dlq",
        "bench",
        "chaos",
        "fuzz",
        "accounts",
        "ca",
        "trial",
    )
)

app = typer.Typer(
    name="meterstream",
    help="From the meter to the bill, as a stream.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def meterstream() -> None:
    """From the meter to the bill, as a stream."""


def main() -> None:
    """Entry point; what a person can mend is told in one line, without a traceback."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # stacks are wiped
    for name in MODULES:
        importlib.import_module(name).register(app)
    try:
        app()
    except StackError as error:
        print(f"meterstream: {error}", file=sys.stderr)
        sys.exit(1)
