-- Running cost and budgets of homes; carbon.

CREATE TABLE home_cost (
    home_id    text PRIMARY KEY REFERENCES home,
    at         timestamptz NOT NULL,                       -- the end of the ledger it was made from
    cost       jsonb NOT NULL,                             -- schemas.cost
    changed_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE budget (
    budget_id  integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    home_id    text NOT NULL REFERENCES home,
    name       text NOT NULL,
    period     text NOT NULL CHECK (period IN ('day', 'month', 'cycle')),
    amount     numeric CHECK (amount > 0),                 -- of money, or
    energy_kwh numeric CHECK (energy_kwh > 0),             -- of energy
    valid_from date NOT NULL,
    valid_to   date CHECK (valid_to > valid_from),
    UNIQUE (home_id, name),
    CHECK (num_nonnulls(amount, energy_kwh) = 1)
);

CREATE TABLE budget_state (
    budget_id    integer NOT NULL REFERENCES budget ON DELETE CASCADE,
    period_start timestamptz NOT NULL,
    period_end   timestamptz NOT NULL,
    used         numeric NOT NULL,
    projected    numeric,
    warned_at    timestamptz,                              -- 80 %
    exceeded_at  timestamptz,                              -- 100 %
    projected_at timestamptz,                              -- the projection crossed the budget
    changed_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (budget_id, period_start)
);

CREATE TABLE emission_factor (
    region    text NOT NULL,
    month     date NOT NULL CHECK (extract(day FROM month) = 1),
    g_per_kwh numeric NOT NULL CHECK (g_per_kwh >= 0),     -- of CO2 equivalent
    source    text NOT NULL,
    PRIMARY KEY (region, month)
);
