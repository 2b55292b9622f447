"""How a command ends that a person can mend: one line on stderr and an exit code."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def told() -> Iterator[None]:
    """Tell refused files, unknown devices and absent servers in one line, without a traceback.

    Exit 65: the input is at fault, or DEVICE is ambiguous. Exit 1: anything else.
    """
    import psycopg
    from confluent_kafka import KafkaException
    from pydantic import ValidationError

    from infra.household.errors import FileRefused
    from infra.local.door import NotLetIn
    from sinks.contracts import HomeError
    from sinks.finality import LogUnreachable, NotFinal
    from sinks.registry import AmbiguousDevice, BadEntry, RegistryError
    from streams.tariffs.errors import TariffError

    try:
        yield
    except (FileRefused, AmbiguousDevice, BadEntry, HomeError, TariffError) as error:
        _tell(str(error))
        raise typer.Exit(os.EX_DATAERR) from error
    except (RegistryError, NotFinal, LogUnreachable, TimeoutError, NotLetIn) as error:
        _tell(str(error))
        raise typer.Exit(1) from error
    except ValidationError as error:
        first = error.errors()[0]
        _tell(f"the setting {'.'.join(map(str, first['loc']))}: {first['msg']}")
        raise typer.Exit(1) from error
    except psycopg.OperationalError as error:
        _tell(f"the database does not answer ({_one_line(error)}); is it up? `meterstream up`")
        raise typer.Exit(1) from error
    except psycopg.errors.UndefinedTable as error:
        _tell(f"the database has no tables ({_one_line(error)}); `meterstream up` makes them")
        raise typer.Exit(1) from error
    except KafkaException as error:
        _tell(f"Kafka does not do it ({_one_line(error)}); is it up? `meterstream up`")
        raise typer.Exit(1) from error
    except ConnectionError as error:
        _tell(f"{_one_line(error)}; is the stack up? `meterstream up`")
        raise typer.Exit(1) from error


def _tell(text: str) -> None:
    print(f"meterstream: {text}", file=sys.stderr)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
