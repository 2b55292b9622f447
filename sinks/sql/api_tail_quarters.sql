-- Complete minutes that the ledger does not hold yet, added up by the quarter of an hour; those
-- without power by themselves, for their readings do not weigh in its mean.
SELECT date_bin('15 minutes', window_start, 'epoch') AS quarter,
       sum(energy_uwh)::bigint, sum(export_uwh)::bigint, min(power_min_w),
       sum(power_avg_w * readings) / nullif(sum(readings), 0), max(power_max_w),
       sum(readings)::integer, max(quality), NULL::smallint, 0, false
FROM usage_1m
WHERE channel_id = %(channel_id)s AND window_start >= %(low)s AND window_start < %(high)s
GROUP BY quarter, power_avg_w IS NULL
ORDER BY quarter
