"""A command line over a database of its own, for the tests of several commands."""

import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import typer
from typer.testing import CliRunner


class CommandLine:
    """The commands of some modules, as a person runs them."""

    def __init__(
        self,
        database_url: str,
        *modules: ModuleType,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._app = typer.Typer()
        for module in modules:
            module.register(self._app)
        self._environment = {"METERSTREAM_DATABASE_URL": database_url, **(environment or {})}

    def __call__(self, *arguments: str, code: int = 0) -> Any:
        """Run a command line; it must end with `code`. Gives its JSON, or its words."""
        result = CliRunner().invoke(self._app, arguments, env=self._environment)
        assert result.exit_code == code, f"{result.output}{result.exception!r}"
        assert result.exception is None or isinstance(result.exception, SystemExit)
        if code:
            return result.stderr
        return json.loads(result.stdout) if "--json" in arguments else result.stdout
