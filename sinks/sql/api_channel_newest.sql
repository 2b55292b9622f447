-- The newest reading of every channel of a device, and which values its last 100 readings had.
SELECT c.name AS channel, seen.names AS seen, newest.*
FROM channel c
LEFT JOIN LATERAL (
    SELECT r.measured_at, r.received_at, {values} FROM readings r
    WHERE r.channel_id = c.channel_id
    ORDER BY r.measured_at DESC LIMIT 1
) newest ON true
CROSS JOIN LATERAL (
    SELECT array_remove(ARRAY[{seen}], NULL) AS names
    FROM (SELECT * FROM readings r WHERE r.channel_id = c.channel_id
          ORDER BY r.measured_at DESC LIMIT 100) r
) seen
WHERE c.device_id = %(device_id)s
ORDER BY c.name
