-- What commands at hundreds a second need.

-- With a kept plan: a function in SQL is planned anew by every statement that calls it.
CREATE OR REPLACE FUNCTION switch_interval_s(device integer) RETURNS double precision
    LANGUAGE plpgsql STABLE SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN coalesce(
        (SELECT l.switch_interval_s FROM command_limit l WHERE l.device_id = device),
        (SELECT l.switch_interval_s FROM command_limit l
         JOIN device d ON d.device_id = device
         LEFT JOIN device_state s ON s.device_id = device AND s.channel = '' AND s.field = 'model'
         WHERE l.model = coalesce(d.model, s.value #>> '{}')),
        1.0);
END $$;

-- A request says that it is one: a relay waits for it, but nobody for a command's other events.
CREATE OR REPLACE FUNCTION note_command_move() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    number bigint;
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO command_outbox (command_id, held)
        VALUES (NEW.command_id, NEW.queued AND device_offline(NEW.device_id));
        NOTIFY command, 'request';
    ELSIF NEW.state = OLD.state THEN
        RETURN NULL;
    ELSE
        NOTIFY command;
    END IF;
    INSERT INTO command_event (command_id, state, reason, confirmed_by)
    VALUES (NEW.command_id, NEW.state, NEW.reason, NEW.confirmed_by)
    RETURNING event_no INTO number;
    INSERT INTO command_outbox (command_id, event_no) VALUES (NEW.command_id, number);
    RETURN NULL;
END $$;
