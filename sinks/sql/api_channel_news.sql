-- The newest reading of every channel of some devices, and the newest power not much older.
-- `channel_state` tells where to look, so that few chunks are opened.
SELECT c.device_id, c.name, coalesce(newest.measured_at, s.last_reading_at) AS last_reading_at,
       power.measured_at AS power_at, power.power_w
FROM channel c
LEFT JOIN channel_state s USING (channel_id)
LEFT JOIN LATERAL (
    SELECT r.measured_at FROM readings r
    WHERE r.channel_id = c.channel_id
      AND r.measured_at >= coalesce(s.last_reading_at, '-infinity')
    ORDER BY r.measured_at DESC LIMIT 1
) newest ON true
LEFT JOIN LATERAL (
    SELECT r.measured_at, r.power_w FROM readings r
    WHERE r.channel_id = c.channel_id
      AND r.measured_at > newest.measured_at - INTERVAL '15 minutes'
      AND r.measured_at <= newest.measured_at
      AND r.power_w IS NOT NULL
    ORDER BY r.measured_at DESC LIMIT 1
) power ON true
WHERE c.device_id = ANY(%(device_ids)s)
ORDER BY c.device_id, c.name
