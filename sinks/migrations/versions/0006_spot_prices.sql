-- Spot prices; bills to be announced.

-- One row a quarter hour, hour, … of a market, keyed by its UTC instant.
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
