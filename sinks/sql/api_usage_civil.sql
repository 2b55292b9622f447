-- Days, weeks or months ({table}) of a channel; they begin at midnight in the device's zone.
SELECT day::timestamp AT TIME ZONE %(zone)s, energy_uwh, export_uwh, power_min_w, power_avg_w,
       power_max_w, readings, quality, NULL::smallint, NULL::integer, true
FROM {table}
WHERE channel_id = %(channel_id)s AND day >= %(low)s::date AND day < %(high)s::date
ORDER BY day
