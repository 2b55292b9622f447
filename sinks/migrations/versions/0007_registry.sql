-- The registry: what a device is, whose it is and was, how it is set up, and whether it is there.

ALTER TABLE device
    ADD COLUMN location           text,
    ADD COLUMN model              text,                    -- set by hand; null: what it says itself
    ADD COLUMN ip                 text,                    -- the same
    ADD COLUMN mac                text,                    -- the same
    ADD COLUMN capabilities       jsonb NOT NULL DEFAULT '{}',  -- what the stream has seen of it
    ADD COLUMN gap_limit_of_model boolean NOT NULL DEFAULT false,
    ADD COLUMN deleted_at         timestamptz,             -- hidden until it speaks again
    ADD COLUMN changed_xid        xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX device_changed ON device (changed_xid);

-- What a worker remembers of a device: it looks once a second for what was changed by transactions
-- that were not over when it last looked.
CREATE FUNCTION note_device_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_xid := pg_current_xact_id();
    RETURN NEW;
END $$;
CREATE TRIGGER device_changed BEFORE UPDATE OF home_id, gap_limit_s, max_power_w ON device
    FOR EACH ROW WHEN ((OLD.home_id, OLD.gap_limit_s, OLD.max_power_w)
                       IS DISTINCT FROM (NEW.home_id, NEW.gap_limit_s, NEW.max_power_w))
    EXECUTE FUNCTION note_device_change();

-- By which limits a channel's windows were made: those from `since` on by these.
CREATE TABLE channel_limits (
    channel_id  integer PRIMARY KEY,
    gap_limit_s integer NOT NULL,
    max_power_w integer NOT NULL,
    since       timestamptz                                -- null: all of them
);

-- Contracts of models that somebody set; the others are in schemas/models.toml.
CREATE TABLE model (
    name                text PRIMARY KEY,
    family              text NOT NULL,
    expected_interval_s integer NOT NULL CHECK (expected_interval_s > 0),
    late_after_s        integer NOT NULL CHECK (late_after_s >= expected_interval_s),
    offline_after_s     integer NOT NULL CHECK (offline_after_s > late_after_s),
    longest_gap_s       integer CHECK (longest_gap_s > 0),  -- null: the family's
    capabilities        text[] NOT NULL DEFAULT '{}',
    set_at              timestamptz NOT NULL DEFAULT now()
);

-- What hangs on a channel.
CREATE TABLE device_sensor (
    device_id   integer NOT NULL REFERENCES device,
    channel     text NOT NULL,
    type        text NOT NULL,                             -- PZEM-004T, CT-clamp, …
    address     text,                                      -- on its bus or pin
    ct_ratio    numeric CHECK (ct_ratio > 0),
    calibration jsonb NOT NULL DEFAULT '{}',
    set_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (device_id, channel, type)
);

-- ---------------------------------------------------------------- configuration

CREATE TABLE device_config (
    device_id integer NOT NULL REFERENCES device,
    version   integer NOT NULL CHECK (version > 0),
    config    jsonb NOT NULL CHECK (jsonb_typeof(config) = 'object'),
    set_by    text NOT NULL,
    set_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (device_id, version)
);

-- What a device said of its configuration: each row some of its settings, later ones win.
CREATE TABLE device_config_report (
    device_id   integer NOT NULL,
    reported_at timestamptz NOT NULL,
    version     integer,                                   -- of device_config, if it told it
    config      jsonb NOT NULL
);
CREATE INDEX device_config_report_device ON device_config_report (device_id, reported_at);

-- Within the worker's transaction: it must not fail whatever the device said.
CREATE FUNCTION keep_config_report() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    told jsonb := NEW.attributes -> 'config_version';
BEGIN
    INSERT INTO device_config_report (device_id, reported_at, version, config)
    VALUES (NEW.device_id, NEW.measured_at,
            CASE WHEN jsonb_typeof(told) = 'number' AND told::text ~ '^[0-9]{1,9}$'
                 THEN told::text::integer END,
            NEW.attributes - 'config_version');
    RETURN NULL;
END $$;
CREATE TRIGGER device_event_config AFTER INSERT ON device_event
    FOR EACH ROW WHEN (NEW.name = 'config_report') EXECUTE FUNCTION keep_config_report();

-- ---------------------------------------------------------------- whose it is

ALTER INDEX device_home RENAME TO device_by_home;
CREATE TABLE device_home (
    device_id  integer NOT NULL REFERENCES device,
    home_id    text NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_to   timestamptz,                                -- null: still
    PRIMARY KEY (device_id, valid_from),
    CHECK (valid_to > valid_from),
    EXCLUDE USING gist (device_id WITH =, tstzrange(valid_from, valid_to) WITH &&)
);
CREATE INDEX device_home_home ON device_home (home_id, device_id);

INSERT INTO device_home (device_id, home_id, valid_from)
SELECT device_id, home_id, timestamptz 'epoch' FROM device WHERE home_id IS NOT NULL;

-- Devices whose quarter hours from then on may have been told as another home's, or as nobody's:
-- the roll-up tells those that are complete again.
CREATE TABLE usage_retold (
    device_id integer NOT NULL,
    since_at  timestamptz NOT NULL
);

-- Follows `device.home_id`, whoever writes it. The first home has what was measured before it
-- came; each later one begins with the change, or at `meterstream.moved_at` of the transaction.
-- Other homes' meters on the device end with the quarter hour in which that lies.
CREATE FUNCTION follow_device_home() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    at timestamptz := coalesce(
        nullif(current_setting('meterstream.moved_at', true), '')::timestamptz, clock_timestamp());
    quarter_end timestamptz :=
        date_bin('15 minutes', at + interval '15 minutes' - interval '1 microsecond',
                 timestamptz 'epoch');
BEGIN
    DELETE FROM device_home WHERE device_id = NEW.device_id AND valid_from >= at;
    UPDATE device_home SET valid_to = at
    WHERE device_id = NEW.device_id AND coalesce(valid_to, 'infinity') > at;
    IF NEW.home_id IS NOT NULL THEN
        INSERT INTO device_home (device_id, home_id, valid_from)
        SELECT NEW.device_id, NEW.home_id,
               CASE WHEN EXISTS (SELECT FROM device_home WHERE device_id = NEW.device_id)
                    THEN at ELSE timestamptz 'epoch' END
        RETURNING valid_from INTO at;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO usage_retold VALUES (NEW.device_id, at);
    END IF;
    DELETE FROM home_meter m USING channel c
    WHERE c.channel_id = m.channel_id AND c.device_id = NEW.device_id
      AND m.home_id IS DISTINCT FROM NEW.home_id AND m.valid_from >= quarter_end;
    UPDATE home_meter m SET valid_to = quarter_end, set_at = now() FROM channel c
    WHERE c.channel_id = m.channel_id AND c.device_id = NEW.device_id
      AND m.home_id IS DISTINCT FROM NEW.home_id
      AND coalesce(m.valid_to, 'infinity') > quarter_end;
    RETURN NULL;
END $$;
CREATE TRIGGER device_home_new AFTER INSERT ON device
    FOR EACH ROW WHEN (NEW.home_id IS NOT NULL) EXECUTE FUNCTION follow_device_home();
CREATE TRIGGER device_home_changed AFTER UPDATE OF home_id ON device
    FOR EACH ROW WHEN (NEW.home_id IS DISTINCT FROM OLD.home_id)
    EXECUTE FUNCTION follow_device_home();

-- A code claims its device once.
CREATE TABLE claim_code (
    code_sha256 bytea PRIMARY KEY,
    device_id   integer NOT NULL UNIQUE REFERENCES device,
    made_by     text NOT NULL,
    expires_at  timestamptz NOT NULL
);

-- Somebody says that he stands beside the device: it must show it.
CREATE TABLE claim_proof (
    proof_id   uuid PRIMARY KEY,
    device_id  integer NOT NULL UNIQUE REFERENCES device,
    home_id    text NOT NULL,
    name       text,
    asked_by   text NOT NULL,
    expires_at timestamptz NOT NULL,
    offsets    jsonb NOT NULL,                             -- part -> how far the stream was
    relays     jsonb NOT NULL                              -- channel -> value
);

CREATE TABLE claim_attempt (
    who text NOT NULL,
    at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX claim_attempt_at ON claim_attempt (at);

-- ---------------------------------------------------------------- presence

CREATE TYPE presence_state AS ENUM ('online', 'late', 'offline');

-- Where `python -m streams.presence` continues: each partition of the raw log by itself.
CREATE TABLE presence_progress (
    part        smallint PRIMARY KEY,
    next_offset bigint NOT NULL,
    stream_us   bigint NOT NULL,
    resumed_us  bigint NOT NULL,                           -- before that nobody listened
    ticks       jsonb NOT NULL
);

CREATE TABLE presence (
    device_id integer PRIMARY KEY REFERENCES device,
    part      smallint NOT NULL,
    state     presence_state NOT NULL,
    since_at  timestamptz NOT NULL,
    heard_at  timestamptz,                                 -- to the minute, while it is online
    folded_at timestamptz NOT NULL,                        -- of the newest message taken
    alert_at  timestamptz                                  -- the alert that its home was told
) WITH (fillfactor = 70);

-- Changes only. `heard_at` is when it was last heard before: until `since_at` of the row that says
-- online its data has a gap.
CREATE TABLE device_presence (
    device_id integer NOT NULL REFERENCES device,
    since_at  timestamptz NOT NULL,
    state     presence_state NOT NULL,
    reason    text NOT NULL,                               -- first, heard, said, silence
    heard_at  timestamptz,
    home_id   text,                                        -- whose it was then
    alert     text CHECK (alert IN ('raised', 'cleared')),
    raised_at timestamptz,                                 -- of the alert that it clears
    announced boolean NOT NULL DEFAULT false,
    PRIMARY KEY (device_id, since_at, state)
);
CREATE INDEX device_presence_unannounced ON device_presence (device_id, since_at, state)
    WHERE NOT announced;

-- Devices that the presence process must read anew; 0: all of them, for a model has changed.
CREATE TABLE presence_dirty (device_id integer NOT NULL);

CREATE FUNCTION mark_presence_dirty() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO presence_dirty VALUES (NEW.device_id);
    RETURN NULL;
END $$;
CREATE TRIGGER device_presence_new AFTER INSERT ON device
    FOR EACH ROW EXECUTE FUNCTION mark_presence_dirty();
CREATE TRIGGER device_presence_changed AFTER UPDATE OF home_id, model, deleted_at ON device
    FOR EACH ROW WHEN ((OLD.home_id, OLD.model, OLD.deleted_at)
                       IS DISTINCT FROM (NEW.home_id, NEW.model, NEW.deleted_at))
    EXECUTE FUNCTION mark_presence_dirty();
CREATE TRIGGER device_model_new AFTER INSERT ON device_state
    FOR EACH ROW WHEN (NEW.field = 'model') EXECUTE FUNCTION mark_presence_dirty();
CREATE TRIGGER device_model_changed AFTER UPDATE ON device_state
    FOR EACH ROW WHEN (NEW.field = 'model' AND NEW.value IS DISTINCT FROM OLD.value)
    EXECUTE FUNCTION mark_presence_dirty();

CREATE FUNCTION mark_all_presence_dirty() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO presence_dirty VALUES (0);
    RETURN NULL;
END $$;
CREATE TRIGGER model_changed AFTER INSERT OR UPDATE OR DELETE ON model
    FOR EACH STATEMENT EXECUTE FUNCTION mark_all_presence_dirty();
