-- Spot prices; bills to be announced; changed reading days; the utility's meter beside ours.

-- A row a quarter hour, keyed by its UTC instant; `duration` is that of the slot that the market has
-- one price for, which several quarter hours can share.
CREATE TABLE spot_price (
    price_zone text NOT NULL,                              -- the `spot` of a tariff
    starts_at  timestamptz NOT NULL,
    duration   interval NOT NULL CHECK (duration IN ('15 minutes', '30 minutes', '1 hour')),
    price      numeric NOT NULL,                           -- per kWh; may be below zero
    currency   text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    revision   integer NOT NULL DEFAULT 1,                 -- how often it was corrected, and 1
    set_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (price_zone, starts_at)
);
CREATE INDEX spot_price_set ON spot_price (set_at);

-- Issued versions that energy.cost.v1 does not have yet: written with the bill, gone when it has.
CREATE TABLE bill_announcement (bill_id bigint PRIMARY KEY REFERENCES bill);
INSERT INTO bill_announcement (bill_id) SELECT bill_id FROM bill;

-- From when on which contract holds, and how long its first cycle is: written with `contract`, by
-- the rule of streams/tariffs/contract.py.
CREATE TABLE contract_era (
    home_id     text NOT NULL REFERENCES home,
    starts_on   date NOT NULL,
    first_month date NOT NULL,                             -- the billing month of its first cycle
    first_end   date NOT NULL CHECK (first_end > starts_on),
    cycle_day   smallint NOT NULL,
    tariff_id   text NOT NULL,
    PRIMARY KEY (home_id, starts_on)
);
INSERT INTO contract_era (home_id, starts_on, first_month, first_end, cycle_day, tariff_id)
SELECT DISTINCT ON (home_id, starts_on) home_id, starts_on, cycle_month(starts_on, cycle_day),
       least((date_trunc('month', starts_on) + interval '1 month')::date + cycle_day - 1,
             (date_trunc('month', starts_on) + interval '2 months')::date - 1),
       cycle_day, tariff_id
FROM contract
CROSS JOIN LATERAL (
    SELECT min(start) AS starts_on FROM (
        SELECT least(first + cycle_day - 1, (first + interval '1 month')::date - 1)
        FROM (VALUES (date_trunc('month', valid_from)::date),
                     ((date_trunc('month', valid_from) + interval '1 month')::date)) AS m (first)
    ) AS starts (start)
    WHERE start >= valid_from
) AS grid
ORDER BY home_id, starts_on, valid_from DESC;

-- Billing cycles; what lies before the first cycle of the home's contracts is in none.
CREATE OR REPLACE VIEW home_cycle AS
SELECT d.home_id, d.role, d.month, d.cycle_start, d.tariff_id,
       sum(d.energy_uwh)::bigint AS energy_uwh, sum(d.export_uwh)::bigint AS export_uwh,
       sum(d.energy_kwh) AS energy_kwh, sum(d.export_kwh) AS export_kwh,
       max(d.max_demand_kw) AS max_demand_kw,
       max(d.quality) AS quality, bool_and(d.complete) AS complete,
       sum(d.quarters)::integer AS quarters
FROM (
    SELECT home_day.*, era.tariff_id,
           CASE WHEN day < era.first_end THEN era.starts_on
                ELSE cycle_start(day, era.cycle_day) END AS cycle_start,
           CASE WHEN day < era.first_end THEN era.first_month
                ELSE cycle_month(cycle_start(day, era.cycle_day), era.cycle_day) END AS month
    FROM home_day
    CROSS JOIN LATERAL (SELECT * FROM contract_era e
                        WHERE e.home_id = home_day.home_id AND e.starts_on <= home_day.day
                        ORDER BY e.starts_on DESC LIMIT 1) AS era
) AS d
GROUP BY d.home_id, d.role, d.month, d.cycle_start, d.tariff_id;

-- What the utility's meter counted between two readings, and ours in the quarter hours nearest to
-- them; `difference_kwh` is the utility's less ours. No row leads into a new meter's first reading.
CREATE VIEW home_utility_difference AS
SELECT r.home_id, r.read_from, r.read_to, r.utility_kwh, o.ours_kwh,
       r.utility_kwh - o.ours_kwh AS difference_kwh, o.quarters
FROM (
    SELECT home_id, lag(read_at) OVER w AS read_from, read_at AS read_to,
           import_kwh - lag(import_kwh) OVER w AS utility_kwh, is_new_meter
    FROM utility_reading WINDOW w AS (PARTITION BY home_id ORDER BY read_at)
) AS r
CROSS JOIN LATERAL (
    SELECT coalesce(sum(energy_kwh), 0) AS ours_kwh, count(*)::integer AS quarters
    FROM home_ledger l
    WHERE l.home_id = r.home_id AND l.role = 'grid'
      AND l.window_start >= date_bin('15 minutes', r.read_from + interval '450 s', 'epoch')
      AND l.window_start < date_bin('15 minutes', r.read_to + interval '450 s', 'epoch')
) AS o
WHERE r.read_from IS NOT NULL AND NOT r.is_new_meter;
