-- Devices that a person calls `text`: exactly (0), or by part of the address or other case (1).
SELECT device_id, address, family, name, home_id, zone, max_power_w, gap_limit_s,
       first_seen_at, claimed_at,
       CASE WHEN name = %(text)s OR address = %(text)s OR device_id = %(id)s THEN 0 ELSE 1 END
           AS distance
FROM device
WHERE name = %(text)s OR address = %(text)s OR device_id = %(id)s
   OR lower(name) = lower(%(text)s)
   OR substr(address, strpos(address, ':') + 1) = %(text)s
   OR right(address, length(%(text)s) + 1) = '/' || %(text)s
ORDER BY distance, device_id
LIMIT 20
