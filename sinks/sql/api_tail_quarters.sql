-- Complete minutes that the ledger does not hold yet, added up by the quarter of an hour.
SELECT date_bin('15 minutes', window_start, 'epoch') AS quarter,
       sum(energy_uwh)::bigint, sum(export_uwh)::bigint, min(power_min_w),
       sum(power_avg_w * readings) / nullif(sum(readings) FILTER (WHERE power_avg_w IS NOT NULL), 0),
       max(power_max_w), sum(readings)::integer, max(quality), NULL::smallint, 0, false
FROM usage_1m
WHERE channel_id = %(channel_id)s AND window_start >= %(low)s AND window_start < %(high)s
GROUP BY quarter
ORDER BY quarter
