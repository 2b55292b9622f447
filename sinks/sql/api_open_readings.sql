-- What the energy of a channel's open windows is computed from.
SELECT measured_at, power_w, import_total_wh, export_total_wh, interval_s, interval_import_wh
FROM readings
WHERE channel_id = %(channel_id)s AND measured_at >= %(low)s
ORDER BY measured_at
LIMIT %(limit)s
