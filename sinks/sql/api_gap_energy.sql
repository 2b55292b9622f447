SELECT start_at, end_at, energy_uwh, export_uwh, why
FROM gap_energy
WHERE channel_id = %(channel_id)s AND start_at < %(high)s AND end_at > %(low)s
ORDER BY start_at
