-- What was mended of a channel's register: resets, rollovers, steps, spikes, replaced meters.
-- Replaced with the windows of `[start_at, …)`; one that no longer holds is deleted.

CREATE TABLE register_repair (
    channel_id     integer NOT NULL,
    is_export      boolean NOT NULL,
    start_at       timestamptz NOT NULL,                   -- of the segment: the reading before
    at             timestamptz NOT NULL,                   -- the reading whose register stepped
    end_at         timestamptz NOT NULL,                   -- of the segment: the reading after
    why            smallint NOT NULL,                      -- schemas.usage.Why
    energy_uwh     bigint NOT NULL,                        -- what the segment was given
    before_uwh     bigint NOT NULL,                        -- the register before the step,
    after_uwh      bigint NOT NULL,                        -- and after it
    changed_offset bigint NOT NULL,
    PRIMARY KEY (channel_id, start_at, at, is_export)
);
