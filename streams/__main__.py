"""`python -m streams`: one stream worker."""

import gc
import logging
import threading

import faust
import structlog

from schemas.connections import DatabaseConnection, KafkaConnection
from streams.app import NameTaken, create_app, health, hold_worker_id, keep_worker_id
from streams.logs import configure_logs
from streams.serving import serve
from streams.settings import WorkerSettings


def main() -> None:
    configure_logs()
    logging.disable(logging.INFO)  # aiokafka and mode make a debug record for every fetch
    gc.set_threshold(100_000, 50, 100)  # readings are tuples by the million, none in a cycle
    log = structlog.get_logger()
    settings, database = WorkerSettings(), DatabaseConnection()
    try:
        held = hold_worker_id(database.url, settings.worker_id)
    except NameTaken as error:
        raise SystemExit(str(error)) from error
    log.info("worker starts", worker=settings.worker_id, pid=held.info.backend_pid)
    app = create_app(settings, KafkaConnection(), database)
    threading.Thread(
        target=keep_worker_id,
        args=(held, database.url, settings.worker_id, app.pipeline.named),
        daemon=True,
    ).start()
    if settings.metrics_port:
        serve(settings.metrics_port, lambda: health(app.pipeline))
    worker = faust.Worker(app, loglevel="WARN", quiet=True, redirect_stdouts=False)
    worker.execute_from_commandline()


if __name__ == "__main__":
    main()
