-- Who is billed for what. Money is numeric in the currency of the tariff.

CREATE EXTENSION IF NOT EXISTS btree_gist;

CREATE TABLE home (
    home_id    text PRIMARY KEY,                           -- device.home_id
    name       text,
    zone       text NOT NULL DEFAULT 'Asia/Bangkok',
    created_at timestamptz NOT NULL DEFAULT now()
);

-- A contract holds for cycles that begin on its first civil day or later, until the next one's.
CREATE TABLE contract (
    home_id    text NOT NULL REFERENCES home,
    valid_from date NOT NULL,
    tariff_id  text NOT NULL,                              -- streams/tariffs/data
    cycle_day  smallint NOT NULL DEFAULT 1 CHECK (cycle_day BETWEEN 1 AND 31),
    ampere_a   numeric CHECK (ampere_a > 0),               -- of the meter
    set_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (home_id, valid_from)
);

-- The channels that count for a home: only these enter bills, cost and budgets.
CREATE TABLE home_meter (
    home_id    text NOT NULL REFERENCES home,
    channel_id integer NOT NULL REFERENCES channel,
    role       text NOT NULL CHECK (role IN ('grid', 'production')),
    valid_from timestamptz NOT NULL,                       -- on a quarter hour, as the ledger is
    valid_to   timestamptz,                                -- null: until further notice
    set_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (channel_id, valid_from),
    CHECK (valid_to > valid_from),
    CHECK (date_bin('15 minutes', valid_from, timestamptz 'epoch') = valid_from),
    CHECK (date_bin('15 minutes', valid_to, timestamptz 'epoch') = valid_to),
    EXCLUDE USING gist (channel_id WITH =, tstzrange(valid_from, valid_to) WITH &&)
);
CREATE INDEX home_meter_home ON home_meter (home_id, valid_from);

-- What somebody read from the utility's own meter.
CREATE TABLE utility_reading (
    home_id      text NOT NULL REFERENCES home,
    read_at      timestamptz NOT NULL,
    import_kwh   numeric NOT NULL CHECK (import_kwh >= 0),
    export_kwh   numeric CHECK (export_kwh >= 0),
    is_new_meter boolean NOT NULL DEFAULT false,           -- the first of another meter
    entered_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (home_id, read_at)
);

-- ---------------------------------------------------------------- for analysts

-- The ledger of homes: a row a quarter hour and role. kWh are exact, to nine decimals.
CREATE VIEW home_ledger AS
SELECT h.home_id, h.role, u.window_start,
       sum(u.energy_uwh)::bigint AS energy_uwh, sum(u.export_uwh)::bigint AS export_uwh,
       sum(u.energy_uwh)::bigint * 0.000000001 AS energy_kwh,
       sum(u.export_uwh)::bigint * 0.000000001 AS export_kwh,
       max(u.quality) AS quality, bool_and(u.complete) AS complete, max(u.changed_at) AS changed_at
FROM home_meter h
JOIN usage_15m u ON u.channel_id = h.channel_id AND u.window_start >= h.valid_from
                AND u.window_start < coalesce(h.valid_to, 'infinity')
GROUP BY h.home_id, h.role, u.window_start;

-- Days, months and years in the home's zone, each the sum of its quarter hours.
CREATE VIEW home_day AS
SELECT l.home_id, l.role, (l.window_start AT TIME ZONE h.zone)::date AS day,
       sum(l.energy_uwh)::bigint AS energy_uwh, sum(l.export_uwh)::bigint AS export_uwh,
       sum(l.energy_kwh) AS energy_kwh, sum(l.export_kwh) AS export_kwh,
       max(l.energy_uwh) * 0.000000004 AS max_demand_kw,
       max(l.quality) AS quality, bool_and(l.complete) AS complete, count(*)::integer AS quarters
FROM home_ledger l JOIN home h USING (home_id)
GROUP BY l.home_id, l.role, (l.window_start AT TIME ZONE h.zone)::date;

CREATE VIEW home_month AS
SELECT home_id, role, date_trunc('month', day)::date AS month,
       sum(energy_uwh)::bigint AS energy_uwh, sum(export_uwh)::bigint AS export_uwh,
       sum(energy_kwh) AS energy_kwh, sum(export_kwh) AS export_kwh,
       max(max_demand_kw) AS max_demand_kw,
       max(quality) AS quality, bool_and(complete) AS complete, sum(quarters)::integer AS quarters
FROM home_day GROUP BY home_id, role, date_trunc('month', day);

CREATE VIEW home_year AS
SELECT home_id, role, extract(year FROM month)::integer AS year,
       sum(energy_uwh)::bigint AS energy_uwh, sum(export_uwh)::bigint AS export_uwh,
       sum(energy_kwh) AS energy_kwh, sum(export_kwh) AS export_kwh,
       max(max_demand_kw) AS max_demand_kw,
       max(quality) AS quality, bool_and(complete) AS complete, sum(quarters)::integer AS quarters
FROM home_month GROUP BY home_id, role, extract(year FROM month);

-- The day on which the cycle that holds `day` begins: the rule of streams/tariffs/month.py.
CREATE FUNCTION cycle_start(day date, cycle_day integer) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN (
    SELECT max(start) FROM (
        SELECT least(first + cycle_day - 1, (first + interval '1 month')::date - 1)
        FROM (VALUES (date_trunc('month', day)::date),
                     ((date_trunc('month', day) - interval '1 month')::date)) AS months (first)
    ) AS starts (start)
    WHERE start <= day
);

-- The billing month of the cycle that begins on that day.
CREATE FUNCTION cycle_month(start date, cycle_day integer) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    (date_trunc('month', start) + CASE WHEN cycle_day = 1 THEN interval '0' ELSE interval '1 month'
                                  END)::date;

-- Billing cycles; one that began before the home's first contract is none.
CREATE VIEW home_cycle AS
SELECT d.home_id, d.role, cycle_month(d.cycle_start, d.cycle_day) AS month, d.cycle_start,
       (SELECT c.tariff_id FROM contract c
        WHERE c.home_id = d.home_id AND c.valid_from <= d.cycle_start
        ORDER BY c.valid_from DESC LIMIT 1) AS tariff_id,
       sum(d.energy_uwh)::bigint AS energy_uwh, sum(d.export_uwh)::bigint AS export_uwh,
       sum(d.energy_kwh) AS energy_kwh, sum(d.export_kwh) AS export_kwh,
       max(d.max_demand_kw) AS max_demand_kw,
       max(d.quality) AS quality, bool_and(d.complete) AS complete,
       sum(d.quarters)::integer AS quarters
FROM (
    SELECT home_day.*, c.cycle_day, c.since, cycle_start(home_day.day, c.cycle_day) AS cycle_start
    FROM home_day
    JOIN (SELECT home_id, min(cycle_day) AS cycle_day, min(valid_from) AS since
          FROM contract GROUP BY home_id) AS c USING (home_id)
) AS d
WHERE d.cycle_start >= d.since
GROUP BY d.home_id, d.role, d.cycle_start, d.cycle_day;
