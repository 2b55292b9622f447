-- Partitions of a topic with progress, how many of them know no stream time, and how long ago the
-- oldest stream time is, in seconds.
SELECT count(*)::integer, (count(*) FILTER (WHERE stream_time IS NULL))::integer,
       extract(epoch FROM clock_timestamp() - min(stream_time))::float8
FROM stream_progress WHERE topic = %(topic)s
