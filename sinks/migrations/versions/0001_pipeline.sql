-- The pipeline's tables. Energies are whole µWh (bigint); instants are timestamptz.

CREATE EXTENSION IF NOT EXISTS timescaledb;

-- Instants of the pipeline are whole µs since the Unix epoch.
CREATE FUNCTION from_us(bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN timestamptz 'epoch' + $1 * interval '1 microsecond';
CREATE FUNCTION to_us(timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (extract(epoch FROM $1) * 1000000)::bigint;

-- ---------------------------------------------------------------- devices

CREATE TABLE device (
    device_id     integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    address       text NOT NULL UNIQUE,
    family        text NOT NULL,
    name          text UNIQUE,
    home_id       text,                                    -- null while unclaimed
    zone          text NOT NULL DEFAULT 'Asia/Bangkok',
    max_power_w   integer CHECK (max_power_w > 0),         -- null: the family's
    gap_limit_s   integer CHECK (gap_limit_s > 0),         -- null: the family's
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    claimed_at    timestamptz
);
CREATE INDEX device_home ON device (home_id) WHERE home_id IS NOT NULL;
CREATE INDEX device_first_seen ON device (first_seen_at) WHERE claimed_at IS NULL;

CREATE TABLE channel (
    channel_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id  integer NOT NULL REFERENCES device,
    name       text NOT NULL,
    UNIQUE (device_id, name)
);

CREATE TABLE device_state (
    device_id   integer NOT NULL REFERENCES device,
    channel     text NOT NULL DEFAULT '',                  -- '' is the device itself
    field       text NOT NULL,
    value       jsonb NOT NULL,
    measured_at timestamptz NOT NULL,
    log_offset  bigint NOT NULL,
    PRIMARY KEY (device_id, channel, field)
);

CREATE TABLE device_event (
    part        smallint NOT NULL,
    log_offset  bigint NOT NULL,
    number      smallint NOT NULL,                         -- within the message
    device_id   integer NOT NULL REFERENCES device,
    channel     text,
    name        text NOT NULL,
    measured_at timestamptz NOT NULL,
    attributes  jsonb NOT NULL,
    PRIMARY KEY (part, log_offset, number)
);
CREATE INDEX device_event_device ON device_event (device_id, measured_at DESC);

-- ---------------------------------------------------------------- readings

CREATE TABLE readings (
    channel_id           integer NOT NULL,
    measured_at          timestamptz NOT NULL,
    received_at          timestamptz NOT NULL,
    log_offset           bigint NOT NULL,                  -- in the device's partition of the log
    seq                  bigint,
    clock                smallint NOT NULL,                -- schemas.reading.Clock
    source               smallint NOT NULL,                -- schemas.reading.Source
    power_w              double precision,                 -- + import, - export
    voltage_v            double precision,
    current_a            double precision,
    frequency_hz         double precision,
    power_factor         double precision,
    apparent_va          double precision,
    reactive_var         double precision,
    import_total_wh      double precision,
    export_total_wh      double precision,
    interval_s           double precision,                 -- the seconds before measured_at
    interval_import_wh   double precision,
    temperature_c        double precision,
    humidity_percent     double precision,
    thd_voltage_percent  double precision,
    thd_current_percent  double precision,
    PRIMARY KEY (channel_id, measured_at)
);
SELECT create_hypertable('readings', by_range('measured_at', INTERVAL '1 day'),
                         create_default_indexes => false);

CREATE TABLE reading_conflict (
    channel_id  integer NOT NULL,
    measured_at timestamptz NOT NULL,
    log_offset  bigint NOT NULL,
    seq         bigint,
    reading     jsonb NOT NULL,
    PRIMARY KEY (channel_id, measured_at, log_offset)
);

-- ---------------------------------------------------------------- windows

CREATE TABLE usage_1m (
    channel_id     integer NOT NULL,
    window_start   timestamptz NOT NULL,
    energy_uwh     bigint NOT NULL,
    export_uwh     bigint NOT NULL,
    power_min_w    double precision,
    power_avg_w    double precision,
    power_max_w    double precision,
    readings       integer NOT NULL,
    quality        smallint NOT NULL,                      -- schemas.usage.Quality
    why            smallint NOT NULL,                      -- schemas.usage.Why
    revision       integer NOT NULL,
    changed_offset bigint NOT NULL,
    PRIMARY KEY (channel_id, window_start)
);
SELECT create_hypertable('usage_1m', by_range('window_start', INTERVAL '7 days'),
                         create_default_indexes => false);

CREATE TABLE gap_energy (
    channel_id     integer NOT NULL,
    start_at       timestamptz NOT NULL,
    end_at         timestamptz NOT NULL,
    energy_uwh     bigint NOT NULL,
    export_uwh     bigint NOT NULL,
    why            smallint NOT NULL,
    revision       integer NOT NULL,
    changed_offset bigint NOT NULL,
    PRIMARY KEY (channel_id, start_at, end_at)
);

CREATE TABLE usage_15m (
    channel_id   integer NOT NULL,
    window_start timestamptz NOT NULL,
    energy_uwh   bigint NOT NULL,
    export_uwh   bigint NOT NULL,
    power_min_w  double precision,
    power_avg_w  double precision,
    power_max_w  double precision,
    readings     integer NOT NULL,
    quality      smallint NOT NULL,
    why          smallint NOT NULL,
    complete     boolean NOT NULL,
    revision     integer NOT NULL,                         -- 0 until complete
    changed_at   timestamptz NOT NULL DEFAULT now(),
    announced    boolean NOT NULL DEFAULT false,
    PRIMARY KEY (channel_id, window_start)
);
SELECT create_hypertable('usage_15m', by_range('window_start', INTERVAL '90 days'),
                         create_default_indexes => false);
CREATE INDEX usage_15m_unannounced ON usage_15m (window_start) WHERE complete AND NOT announced;

CREATE TABLE usage_1h (
    channel_id   integer NOT NULL,
    window_start timestamptz NOT NULL,
    energy_uwh   bigint NOT NULL,
    export_uwh   bigint NOT NULL,
    power_min_w  double precision,
    power_avg_w  double precision,
    power_max_w  double precision,
    readings     integer NOT NULL,
    quality      smallint NOT NULL,
    PRIMARY KEY (channel_id, window_start)
);
SELECT create_hypertable('usage_1h', by_range('window_start', INTERVAL '90 days'),
                         create_default_indexes => false);

-- Civil days, weeks (from Monday) and months in the zone of the device.
CREATE TABLE usage_1d (
    channel_id  integer NOT NULL,
    day         date NOT NULL,
    energy_uwh  bigint NOT NULL,
    export_uwh  bigint NOT NULL,
    power_min_w double precision,
    power_avg_w double precision,
    power_max_w double precision,
    readings    integer NOT NULL,
    quality     smallint NOT NULL,
    PRIMARY KEY (channel_id, day)
);
CREATE TABLE usage_1w (LIKE usage_1d INCLUDING ALL);
CREATE TABLE usage_1mo (LIKE usage_1d INCLUDING ALL);

CREATE TABLE rollup_dirty (
    channel_id   integer NOT NULL,
    quarter_hour timestamptz NOT NULL
);

-- ---------------------------------------------------------------- the stream's own

CREATE TABLE channel_state (
    channel_id      integer PRIMARY KEY,
    part            smallint NOT NULL,
    complete_until  timestamptz NOT NULL,
    context_from    timestamptz NOT NULL,                  -- oldest reading held in memory
    last_reading_at timestamptz NOT NULL,
    has_import      boolean NOT NULL,
    has_export      boolean NOT NULL,
    has_interval    boolean NOT NULL,
    context_full    boolean NOT NULL                       -- older readings than context_from exist
) WITH (fillfactor = 70);
CREATE INDEX channel_state_part ON channel_state (part);

CREATE TABLE window_dirty (
    part       smallint NOT NULL,
    log_offset bigint NOT NULL,
    channel_id integer NOT NULL,
    start_at   timestamptz NOT NULL,
    end_at     timestamptz NOT NULL
);
CREATE INDEX window_dirty_part ON window_dirty (part);

CREATE TABLE stream_progress (
    topic            text NOT NULL,
    part             smallint NOT NULL,
    epoch            bigint NOT NULL,
    pid              integer NOT NULL,
    next_offset      bigint NOT NULL,
    published_offset bigint NOT NULL,                      -- derived topics hold all before it
    stream_time      timestamptz,
    ticks            jsonb NOT NULL DEFAULT '{}',          -- shard -> µs of its latest tick
    PRIMARY KEY (topic, part)
);

-- Windows that changed in a transaction whose announcement is not confirmed by Kafka yet.
CREATE TABLE announcement (
    part          smallint NOT NULL,
    log_offset    bigint NOT NULL,
    channel_ids   integer[] NOT NULL,
    window_starts timestamptz[] NOT NULL,
    PRIMARY KEY (part, log_offset)
);

CREATE TABLE refused (
    part        smallint NOT NULL,
    log_offset  bigint NOT NULL,
    address     text NOT NULL,
    mqtt_topic  text NOT NULL,
    source      smallint NOT NULL,
    received_at timestamptz NOT NULL,
    reason      text NOT NULL,
    error       text NOT NULL,
    payload     bytea NOT NULL,
    replayed_at timestamptz,
    PRIMARY KEY (part, log_offset)
);
CREATE INDEX refused_received ON refused (received_at DESC);

CREATE TABLE log_gap (
    topic       text NOT NULL,
    part        smallint NOT NULL,
    from_offset bigint NOT NULL,
    to_offset   bigint NOT NULL,
    noted_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, part, from_offset)
);

-- Which windows readings in [start_at, end_at] of a channel can change, in whole minutes: the rule
-- of `streams.recompute._touched`. 6 is `streams.energy.REACH`.
CREATE FUNCTION touched_by(
    channel integer, start_at timestamptz, end_at timestamptz, gap interval,
    has_import boolean, has_export boolean, has_interval boolean,
    OUT low timestamptz, OUT high timestamptz
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    found timestamptz;
    begins timestamptz;
BEGIN
    low := start_at - gap;
    high := end_at + gap;
    IF has_import THEN
        SELECT min(measured_at) INTO found FROM (
            SELECT measured_at FROM readings
            WHERE channel_id = channel AND measured_at < start_at AND import_total_wh IS NOT NULL
            ORDER BY measured_at DESC LIMIT 6) AS before;
        low := least(low, found);
        SELECT max(measured_at) INTO found FROM (
            SELECT measured_at FROM readings
            WHERE channel_id = channel AND measured_at > end_at AND import_total_wh IS NOT NULL
            ORDER BY measured_at LIMIT 6) AS after;
        high := greatest(high, found);
    END IF;
    IF has_export THEN
        SELECT min(measured_at) INTO found FROM (
            SELECT measured_at FROM readings
            WHERE channel_id = channel AND measured_at < start_at AND export_total_wh IS NOT NULL
            ORDER BY measured_at DESC LIMIT 6) AS before;
        low := least(low, found);
        SELECT max(measured_at) INTO found FROM (
            SELECT measured_at FROM readings
            WHERE channel_id = channel AND measured_at > end_at AND export_total_wh IS NOT NULL
            ORDER BY measured_at LIMIT 6) AS after;
        high := greatest(high, found);
    END IF;
    IF has_interval THEN
        SELECT min(measured_at - interval_s * interval '1 second') INTO found FROM readings
        WHERE channel_id = channel AND measured_at BETWEEN start_at AND end_at
          AND interval_s IS NOT NULL;
        low := least(low, found);
        SELECT measured_at - interval_s * interval '1 second' INTO found FROM readings
        WHERE channel_id = channel AND measured_at < start_at AND interval_s IS NOT NULL
        ORDER BY measured_at DESC LIMIT 1;
        low := least(low, found);
        SELECT measured_at, measured_at - interval_s * interval '1 second' INTO found, begins
        FROM readings
        WHERE channel_id = channel AND measured_at > end_at AND interval_s IS NOT NULL
        ORDER BY measured_at LIMIT 1;
        low := least(low, begins);
        high := greatest(high, found);
    END IF;
    low := date_trunc('minute', low);
    high := date_trunc('minute', high) + interval '1 minute';
END $$;
