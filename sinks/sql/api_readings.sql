-- Readings of some channels in [low, high) beyond the place of a cursor: at most `limit` of each
-- channel are read, by the primary key, before they are merged.
SELECT wanted.name, r.*
FROM unnest(%(channel_ids)s::integer[], %(names)s::text[]) AS wanted (channel_id, name)
CROSS JOIN LATERAL (
    SELECT measured_at{columns} FROM readings
    WHERE channel_id = wanted.channel_id
      AND measured_at >= %(low)s AND measured_at < %(high)s
      AND (%(after_at)s::timestamptz IS NULL
           OR (measured_at, channel_id) {beyond} (%(after_at)s, %(after_channel)s))
    ORDER BY measured_at {order} LIMIT %(limit)s
) r
ORDER BY r.measured_at {order}, wanted.channel_id {order}
LIMIT %(limit)s
