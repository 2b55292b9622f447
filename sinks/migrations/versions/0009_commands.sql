-- Commands to devices: what was asked, what became of it, and who switched what.

CREATE TABLE command (
    command_id     uuid PRIMARY KEY,                       -- version 7
    device_id      integer NOT NULL REFERENCES device,
    command_seq    integer NOT NULL CHECK (command_seq > 0),
    channel        text,                                   -- the relay; null the whole device
    kind           text NOT NULL,                          -- schemas.command.Kind, never toggle
    asked          text NOT NULL,                          -- the kind that was asked for
    parameters     jsonb NOT NULL,
    issued_by      text NOT NULL CHECK (issued_by ~ '^(user|rule|schedule|scene|revert):.'),
    issued_at      timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL CHECK (expires_at > issued_at),
    queued         boolean NOT NULL,                       -- may wait while the device is offline
    revert_after_s integer CHECK (revert_after_s > 0),
    revert_at      timestamptz,                            -- null: nothing is to be reverted
    state          text NOT NULL DEFAULT 'accepted',       -- schemas.command.CommandState
    reason         text,
    confirmed_by   text,                                   -- answer, state
    answers        boolean,                                -- is the device to answer? null: not known
    requested_at   timestamptz,                            -- since then Kafka may have it
    sent_at        timestamptz,
    ended_at       timestamptz,
    late_answer    text,                                   -- what the device said after the end
    superseded_by  uuid REFERENCES command DEFERRABLE INITIALLY DEFERRED,
    UNIQUE (device_id, command_seq)
);
CREATE INDEX command_kind ON command (device_id, kind, command_seq);
CREATE INDEX command_open ON command (device_id) WHERE state IN ('accepted', 'sent', 'received');
CREATE INDEX command_due ON command (expires_at) WHERE state IN ('accepted', 'sent', 'received');
CREATE INDEX command_revert ON command (revert_at) WHERE revert_at IS NOT NULL;

-- Its row is the lock under which the commands of a device are accepted.
CREATE TABLE command_counter (
    device_id integer PRIMARY KEY REFERENCES device,
    last_seq  integer NOT NULL
);

CREATE TABLE command_key (
    principal   text NOT NULL,
    key         text NOT NULL,
    body_sha256 bytea NOT NULL,
    command_ids uuid[] NOT NULL DEFAULT '{}',
    made_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (principal, key)
);
CREATE INDEX command_key_made ON command_key (made_at);

-- The least time between two switchings of a relay: of a device, else of its model, else a second.
CREATE TABLE command_limit (
    device_id         integer UNIQUE REFERENCES device,
    model             text UNIQUE,
    switch_interval_s double precision NOT NULL CHECK (switch_interval_s BETWEEN 0 AND 86400),
    CHECK (num_nonnulls(device_id, model) = 1)
);

-- The life of a command. Rows are only added.
CREATE TABLE command_event (
    event_no     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    command_id   uuid NOT NULL REFERENCES command,
    state        text NOT NULL,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason       text,
    confirmed_by text,
    late         boolean NOT NULL DEFAULT false            -- said when the command had ended: no move
);
CREATE INDEX command_event_command ON command_event (command_id, event_no);

-- What Kafka does not have yet; a row goes when Kafka has confirmed it.
CREATE TABLE command_outbox (
    outbox_no  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    command_id uuid NOT NULL,
    event_no   bigint,                                     -- null: the request itself
    held       boolean NOT NULL DEFAULT false              -- until the device is online
);

-- What devices said that may concern a command; a row goes when it has been looked at.
CREATE TABLE command_answer (
    answer_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id integer NOT NULL,
    channel   text NOT NULL,                               -- '' is the device itself
    at        timestamptz NOT NULL,                        -- measured
    answer    jsonb,                                       -- attributes of the device's answer, or
    was_on    jsonb,                                       -- what a relay was
    is_on     jsonb                                        -- and is
);

CREATE TABLE switch_event (
    switch_no  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id  integer NOT NULL REFERENCES device,
    channel    text NOT NULL,                              -- '' is the device itself
    at         timestamptz NOT NULL,
    was_on     boolean,                                    -- null: nobody knew
    is_on      boolean NOT NULL,
    by_kind    text NOT NULL CHECK (by_kind IN
                   ('user', 'rule', 'schedule', 'scene', 'revert', 'wall switch', 'device')),
    by_whom    text NOT NULL,
    command_id uuid UNIQUE REFERENCES command
);
CREATE INDEX switch_event_device ON switch_event (device_id, switch_no);

-- ---------------------------------------------------------------- rules

-- An answer may overtake the word that the command was sent.
CREATE FUNCTION legal_command_move(before text, after text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (before, after) IN (
        ('accepted', 'sent'), ('accepted', 'received'), ('accepted', 'done'),
        ('accepted', 'failed'), ('accepted', 'expired'), ('accepted', 'superseded'),
        ('accepted', 'cancelled'),
        ('sent', 'received'), ('sent', 'done'), ('sent', 'failed'), ('sent', 'expired'),
        ('sent', 'superseded'),
        ('received', 'done'), ('received', 'failed'), ('received', 'expired'),
        ('received', 'superseded'));

-- A device is offline when it, its last will or its silence said so, and nothing has come since.
-- With kept plans: the connections of the API plan everything else anew for the values at hand.
CREATE FUNCTION device_offline(device integer) RETURNS boolean LANGUAGE plpgsql STABLE
    SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    gone_at timestamptz;
BEGIN
    SELECT max(at) INTO gone_at FROM (
        SELECT measured_at AS at FROM device_state
        WHERE device_id = device AND channel = '' AND field = 'online' AND value = 'false'
        UNION ALL
        SELECT since_at FROM presence WHERE device_id = device AND state = 'offline'
    ) AS gone;
    RETURN gone_at IS NOT NULL
       AND NOT EXISTS (SELECT FROM device_state AS later
                       WHERE later.device_id = device AND later.measured_at > gone_at)
       AND NOT EXISTS (SELECT FROM presence
                       WHERE presence.device_id = device AND state <> 'offline'
                         AND since_at > gone_at)
       AND NOT EXISTS (SELECT FROM channel_state JOIN channel USING (channel_id)
                       WHERE channel.device_id = device AND last_reading_at > gone_at);
END $$;

CREATE FUNCTION switch_interval_s(device integer) RETURNS double precision LANGUAGE sql STABLE
    RETURN coalesce(
        (SELECT l.switch_interval_s FROM command_limit l WHERE l.device_id = device),
        (SELECT l.switch_interval_s FROM command_limit l
         JOIN device d ON d.device_id = device
         LEFT JOIN device_state s ON s.device_id = device AND s.channel = '' AND s.field = 'model'
         WHERE l.model = coalesce(d.model, s.value #>> '{}')),
        1.0);

CREATE FUNCTION check_command_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.command_id, NEW.device_id, NEW.command_seq, NEW.kind, NEW.parameters, NEW.issued_by,
        NEW.issued_at, NEW.expires_at)
       IS DISTINCT FROM (OLD.command_id, OLD.device_id, OLD.command_seq, OLD.kind, OLD.parameters,
        OLD.issued_by, OLD.issued_at, OLD.expires_at) THEN
        RAISE check_violation USING MESSAGE =
            'command ' || OLD.command_id || ': what was asked does not change; ask anew';
    END IF;
    IF NEW.state = OLD.state THEN
        RETURN NEW;
    END IF;
    IF NOT legal_command_move(OLD.state, NEW.state)
       OR (NEW.state = 'cancelled' AND OLD.requested_at IS NOT NULL) THEN
        RAISE check_violation USING MESSAGE =
            'command ' || OLD.command_id || ': ' || OLD.state || ' cannot become ' || NEW.state;
    END IF;
    IF NEW.state IN ('done', 'failed', 'expired', 'superseded', 'cancelled') THEN
        NEW.ended_at := clock_timestamp();
    END IF;
    IF NEW.state IN ('failed', 'cancelled') OR NEW.requested_at IS NULL THEN
        NEW.revert_at := NULL;  -- it cannot have run
    ELSIF NEW.state = 'sent' THEN
        NEW.revert_at := NEW.sent_at + NEW.revert_after_s * interval '1 second';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER command_checked BEFORE UPDATE ON command
    FOR EACH ROW EXECUTE FUNCTION check_command_move();

CREATE FUNCTION note_command_move() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    number bigint;
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO command_outbox (command_id, held)
        VALUES (NEW.command_id, NEW.queued AND device_offline(NEW.device_id));
    ELSIF NEW.state = OLD.state THEN
        RETURN NULL;
    END IF;
    INSERT INTO command_event (command_id, state, reason, confirmed_by)
    VALUES (NEW.command_id, NEW.state, NEW.reason, NEW.confirmed_by)
    RETURNING event_no INTO number;
    INSERT INTO command_outbox (command_id, event_no) VALUES (NEW.command_id, number);
    NOTIFY command;
    RETURN NULL;
END $$;
CREATE TRIGGER command_moved AFTER INSERT OR UPDATE ON command
    FOR EACH ROW EXECUTE FUNCTION note_command_move();

CREATE FUNCTION keep_command_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE check_violation USING MESSAGE = 'the life of a command is only added to';
END $$;
CREATE TRIGGER command_event_kept BEFORE UPDATE OR DELETE ON command_event
    FOR EACH ROW EXECUTE FUNCTION keep_command_event();

-- ---------------------------------------------------------------- what the stream stores
-- In the stream's own transaction: nothing here may fail, whatever a device says.

CREATE FUNCTION note_command_answer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO command_answer (device_id, channel, at, answer)
    VALUES (NEW.device_id, coalesce(NEW.channel, ''), NEW.measured_at, NEW.attributes);
    NOTIFY command;
    RETURN NULL;
END $$;
CREATE TRIGGER command_answered AFTER INSERT ON device_event
    FOR EACH ROW WHEN (NEW.name = 'command_response') EXECUTE FUNCTION note_command_answer();

-- A report that changes nothing can confirm a command that is under way.
CREATE FUNCTION note_relay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.value IS DISTINCT FROM NEW.value
       OR EXISTS (SELECT FROM command WHERE device_id = NEW.device_id
                  AND state IN ('accepted', 'sent', 'received')) THEN
        INSERT INTO command_answer (device_id, channel, at, was_on, is_on)
        VALUES (NEW.device_id, NEW.channel, NEW.measured_at, OLD.value, NEW.value);
        NOTIFY command;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER relay_reported AFTER INSERT OR UPDATE ON device_state
    FOR EACH ROW WHEN (NEW.field = 'relay') EXECUTE FUNCTION note_relay();
