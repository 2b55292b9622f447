SELECT window_start, energy_uwh, export_uwh, power_min_w, power_avg_w, power_max_w, readings,
       quality, why, revision, true
FROM usage_1m
WHERE channel_id = %(channel_id)s AND window_start >= %(low)s AND window_start < %(high)s
ORDER BY window_start
