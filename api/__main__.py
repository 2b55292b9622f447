"""`python -m api`: the API, until SIGTERM or SIGINT."""

import logging
import signal
import sys

import structlog
import uvicorn
from pydantic import ValidationError
from pydantic_settings import SettingsError
from structlog.typing import Processor

from api.app import create_app
from api.settings import ApiSettings
from schemas.connections import AccountsConnection, DatabaseConnection

EXIT_CONFIG = 78


def configure_log() -> None:
    """One JSON object a line on stdout: ours, and what the libraries say."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(),
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def main() -> int:
    configure_log()
    log = structlog.get_logger().bind(process="api")
    try:
        settings, database, accounts = ApiSettings(), DatabaseConnection(), AccountsConnection()
    except (ValidationError, SettingsError) as error:
        log.error("bad_configuration", error=_without_values(error))
        return EXIT_CONFIG
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, database.url, accounts),
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=settings.shutdown_timeout_s,
        )
    )
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again when it is done
        signal.signal(number, lambda *_: sys.exit(0))
    log.info("starting", host=settings.host, port=settings.port)
    server.run()
    return 0 if server.started else 1


def _without_values(error: ValidationError | SettingsError) -> str:
    """What is wrong with the settings, but not what they hold."""
    if isinstance(error, SettingsError):
        return str(error)
    return "; ".join(
        ": ".join(
            filter(
                None,
                [
                    "".join(f"METERSTREAM_API_{part}".upper() for part in one["loc"]),
                    one["msg"].removeprefix("Value error, "),
                ],
            )
        )
        for one in error.errors()
    )


if __name__ == "__main__":
    sys.exit(main())
