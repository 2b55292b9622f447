-- Running cost and budgets of homes; carbon.

CREATE TABLE home_cost (
    home_id    text PRIMARY KEY REFERENCES home,
    at         timestamptz,                                -- the end of the ledger it was made from
    cost       jsonb NOT NULL,                             -- schemas.cost.HomeCost
    revision   integer NOT NULL DEFAULT 1,
    changed_at timestamptz NOT NULL DEFAULT now(),
    announced  boolean NOT NULL DEFAULT false
);
CREATE INDEX home_cost_unannounced ON home_cost (home_id) WHERE NOT announced;

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
    budget_id             integer NOT NULL REFERENCES budget ON DELETE CASCADE,
    period_start          timestamptz NOT NULL,
    period_end            timestamptz NOT NULL,
    used                  numeric NOT NULL,
    projected             numeric,
    warned_at             timestamptz,                     -- 80 %
    exceeded_at           timestamptz,                     -- 100 %
    projected_at          timestamptz,                     -- the projection crossed the budget
    projection_cleared_at timestamptz,
    events                integer NOT NULL,                -- alerts raised and cleared so far
    changed_at            timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (budget_id, period_start)
);

-- Written with the state that it tells of; announced when Kafka has it.
CREATE TABLE budget_alert (
    alert_no  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alert_id  text NOT NULL UNIQUE,
    home_id   text NOT NULL REFERENCES home,
    alert     jsonb NOT NULL,                              -- schemas.cost.BudgetAlert
    made_at   timestamptz NOT NULL DEFAULT now(),
    announced boolean NOT NULL DEFAULT false
);
CREATE INDEX budget_alert_home ON budget_alert (home_id, alert_no);
CREATE INDEX budget_alert_unannounced ON budget_alert (alert_no) WHERE NOT announced;

-- Homes whose cost is to be worked out anew because of what is agreed, not of what was measured.
CREATE TABLE cost_dirty (home_id text NOT NULL);

CREATE FUNCTION mark_cost_dirty() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO cost_dirty (home_id)
    SELECT DISTINCT home_id FROM (VALUES (OLD.home_id), (NEW.home_id)) AS touched (home_id)
    WHERE home_id IS NOT NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER home_cost_dirty AFTER INSERT OR UPDATE ON home
    FOR EACH ROW EXECUTE FUNCTION mark_cost_dirty();
CREATE TRIGGER contract_cost_dirty AFTER INSERT OR UPDATE OR DELETE ON contract
    FOR EACH ROW EXECUTE FUNCTION mark_cost_dirty();
CREATE TRIGGER home_meter_cost_dirty AFTER INSERT OR UPDATE OR DELETE ON home_meter
    FOR EACH ROW EXECUTE FUNCTION mark_cost_dirty();
CREATE TRIGGER budget_cost_dirty AFTER INSERT OR UPDATE OR DELETE ON budget
    FOR EACH ROW EXECUTE FUNCTION mark_cost_dirty();

CREATE TABLE emission_factor (
    region    text NOT NULL,
    month     date NOT NULL CHECK (extract(day FROM month) = 1),
    g_per_kwh numeric NOT NULL CHECK (g_per_kwh >= 0),     -- of CO2 equivalent
    source    text NOT NULL,
    PRIMARY KEY (region, month)
);
