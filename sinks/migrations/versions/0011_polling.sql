-- Devices that are asked over HTTP while their MQTT is silent, and silences that are asked for.

CREATE TABLE polled_device (
    device_id      integer PRIMARY KEY REFERENCES device,
    host           text,                                   -- name[:port]; null: the device's ip
    secret_file    text,                                   -- a name in the poller's folder of secrets
    interval_s     integer NOT NULL DEFAULT 10 CHECK (interval_s BETWEEN 1 AND 3600),
    silent_after_s integer CHECK (silent_after_s > 0),     -- null: when its contract calls it late
    set_at         timestamptz NOT NULL DEFAULT now()
);

-- Silences of meters that store their minutes, from when they were noted until all are asked for.
CREATE TABLE backfill (
    device_id   integer NOT NULL REFERENCES device,
    component   text NOT NULL,                             -- emdata:0, em1data:2
    start_at    timestamptz NOT NULL,
    end_at      timestamptz NOT NULL CHECK (end_at > start_at),
    asked_until timestamptz NOT NULL,                      -- before it, all that is stored has come
    records     integer NOT NULL DEFAULT 0,
    tries       integer NOT NULL DEFAULT 0,                -- without an answer, since the last one
    next_try_at timestamptz NOT NULL DEFAULT now(),
    noted_at    timestamptz NOT NULL DEFAULT now(),
    done_at     timestamptz,
    reason      text,                                      -- why it waits, or was given up
    PRIMARY KEY (device_id, component, start_at)
);
CREATE INDEX backfill_open ON backfill (next_try_at) WHERE done_at IS NULL;

-- How far the ledger has been looked at for silences; one row.
CREATE TABLE backfill_progress (looked_until timestamptz NOT NULL);
INSERT INTO backfill_progress VALUES (timestamptz 'epoch');
