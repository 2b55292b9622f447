-- One page of devices after `after`, in the order of their ids. A null filter is no filter.
SELECT d.device_id, d.address, d.family, d.name, d.home_id, d.zone,
       d.claimed_at IS NOT NULL AS claimed, d.first_seen_at, d.claimed_at,
       (SELECT s.value FROM device_state s
        WHERE s.device_id = d.device_id AND s.channel = '' AND s.field = 'online') AS online,
       d.location,
       coalesce(d.model, (SELECT s.value #>> '{}' FROM device_state s
        WHERE s.device_id = d.device_id AND s.channel = '' AND s.field = 'model')) AS model,
       d.capabilities, p.state::text AS presence, d.deleted_at
FROM device d LEFT JOIN presence p USING (device_id)
WHERE d.device_id > %(after)s
  AND (%(deleted)s::boolean IS NULL OR (d.deleted_at IS NOT NULL) = %(deleted)s)
  AND (%(home)s::text IS NULL OR d.home_id = %(home)s)
  AND (%(family)s::text IS NULL OR d.family = %(family)s)
  AND (%(claimed)s::boolean IS NULL OR (d.claimed_at IS NOT NULL) = %(claimed)s)
  AND (%(q)s::text IS NULL
       OR strpos(lower(d.address || ' ' || coalesce(d.name, '')), lower(%(q)s)) > 0)
ORDER BY d.device_id
LIMIT %(limit)s
