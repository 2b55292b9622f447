-- Firmware: signed images, whom nodes believe, and how far each roll-out is.

-- Root documents as they were signed. The first is on every node; later ones follow one by one.
CREATE TABLE firmware_root (
    version  integer PRIMARY KEY CHECK (version > 0),
    envelope jsonb NOT NULL,                               -- schemas.firmware.Envelope
    added_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE firmware (
    firmware_id      integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sha256           text NOT NULL UNIQUE,
    product          text NOT NULL,
    hw_rev           text NOT NULL,
    version          text NOT NULL,
    security_counter integer NOT NULL,
    size_bytes       integer NOT NULL,
    expires_at       timestamptz NOT NULL,
    envelope         jsonb NOT NULL,                       -- schemas.firmware.Envelope
    added_at         timestamptz NOT NULL DEFAULT now(),
    UNIQUE (product, hw_rev, version)
);

-- Nodes fetch pieces: uncompressed, so that `substring` reads only what it is asked for.
CREATE TABLE firmware_image (
    sha256 text PRIMARY KEY REFERENCES firmware (sha256) ON DELETE CASCADE,
    image  bytea NOT NULL
);
ALTER TABLE firmware_image ALTER COLUMN image SET STORAGE EXTERNAL;

CREATE TABLE firmware_rollout (
    rollout_id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    firmware_id   integer NOT NULL REFERENCES firmware,
    base_url      text NOT NULL,                           -- where nodes find the API
    percent       numeric NOT NULL CHECK (percent BETWEEN 0 AND 100),
    max_failed_percent numeric NOT NULL CHECK (max_failed_percent BETWEEN 0 AND 100),
    least_results integer NOT NULL CHECK (least_results > 0),
    state         text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'halted', 'stopped')),
    reason        text,                                    -- of its state, where there is one
    made_by       text NOT NULL,
    made_at       timestamptz NOT NULL DEFAULT now(),
    judged_from   timestamptz NOT NULL DEFAULT now()       -- what ended before is forgiven
);

CREATE TABLE firmware_rollout_device (
    rollout_id  integer NOT NULL REFERENCES firmware_rollout,
    device_id   integer NOT NULL REFERENCES device,
    status      text NOT NULL DEFAULT 'waiting'
                CHECK (status IN ('waiting', 'sent', 'done', 'failed')),
    command_id  uuid REFERENCES command,
    attempts    integer NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT '-infinity',
    reason      text,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (rollout_id, device_id)
);
CREATE INDEX firmware_rollout_device_open ON firmware_rollout_device (rollout_id)
    WHERE status IN ('waiting', 'sent');

-- Where a device stands in the row of all, 0 to 100: another row for each image.
CREATE FUNCTION rollout_place(image_sha256 text, address text) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (('x' || left(encode(sha256(convert_to(image_sha256 || '/' || address, 'UTF8')), 'hex'),
                         8))::bit(32)::bigint) * 100.0 / 4294967296;
