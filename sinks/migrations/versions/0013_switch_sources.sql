-- What a device named as the switching one, kept with the change that the same message told of.
-- The next change may come before anybody has looked at this one.

ALTER TABLE command_answer ADD COLUMN said_by jsonb;

-- The stream stores `switched_by` of a message before its `relay`. A report that changes nothing
-- can confirm a command that is under way.
CREATE OR REPLACE FUNCTION note_relay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.value IS DISTINCT FROM NEW.value
       OR EXISTS (SELECT FROM command WHERE device_id = NEW.device_id
                  AND state IN ('accepted', 'sent', 'received')) THEN
        INSERT INTO command_answer (device_id, channel, at, was_on, is_on, said_by)
        VALUES (NEW.device_id, NEW.channel, NEW.measured_at, OLD.value, NEW.value,
                (SELECT value FROM device_state
                 WHERE device_id = NEW.device_id AND channel = NEW.channel
                   AND field = 'switched_by'
                   AND (measured_at, log_offset) = (NEW.measured_at, NEW.log_offset)));
        NOTIFY command;
    END IF;
    RETURN NULL;
END $$;
