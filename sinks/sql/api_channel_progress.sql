-- How far the windows of a device's channels are complete: minutes, and the 15-minute ledger.
SELECT c.channel_id, c.name, s.complete_until, s.context_from, ledger.until AS ledger_until
FROM channel c
LEFT JOIN channel_state s USING (channel_id)
LEFT JOIN LATERAL (
    SELECT u.window_start + INTERVAL '15 minutes' AS until FROM usage_15m u
    WHERE u.channel_id = c.channel_id AND u.complete
    ORDER BY u.window_start DESC LIMIT 1
) ledger ON true
WHERE c.device_id = %(device_id)s
ORDER BY c.name
