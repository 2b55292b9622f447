-- Least, greatest and mean of some values in equal spans of time that begin at `low`.
SELECT wanted.name, date_bin(%(width)s, r.measured_at, %(low)s) AS start, count(*){aggregates}
FROM unnest(%(channel_ids)s::integer[], %(names)s::text[]) AS wanted (channel_id, name)
JOIN readings r USING (channel_id)
WHERE r.measured_at >= %(low)s AND r.measured_at < %(high)s
  AND r.channel_id = ANY(%(channel_ids)s)
GROUP BY wanted.channel_id, wanted.name, start
ORDER BY start, wanted.channel_id
