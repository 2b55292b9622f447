"""`meterstream device`: the group that several modules add their commands to."""

import typer

group = typer.Typer(
    no_args_is_help=True,
    help="Devices: what they are, whose they are, and how they are.",
)


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="device")
