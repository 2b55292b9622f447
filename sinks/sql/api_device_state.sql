SELECT nullif(channel, '') AS channel, field, value, measured_at
FROM device_state WHERE device_id = %(device_id)s
ORDER BY channel NULLS FIRST, field
