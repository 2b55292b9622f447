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
