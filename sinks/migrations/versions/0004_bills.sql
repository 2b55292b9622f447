-- Issued bills never change: what comes late makes another version.

CREATE TABLE bill (
    bill_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    home_id     text NOT NULL REFERENCES home,
    month       date NOT NULL CHECK (extract(day FROM month) = 1),  -- the billing month
    version     integer NOT NULL CHECK (version > 0),
    cycle_start timestamptz NOT NULL,
    cycle_end   timestamptz NOT NULL,
    tariff_id   text NOT NULL,
    currency    text NOT NULL,
    total       numeric NOT NULL,
    document    text NOT NULL,                             -- canonical JSON, as it was hashed
    sha256      text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    adjustment  jsonb,                                     -- against the version before; null: first
    ledger_at   timestamptz NOT NULL,                      -- the newest change of its ledger
    issued_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (home_id, month, version),
    CHECK ((version = 1) = (adjustment IS NULL))
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an issued bill never changes; issue the next version'
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER bill_is_immutable BEFORE UPDATE OR DELETE ON bill
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER bill_is_kept BEFORE TRUNCATE ON bill
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Up to which changes issued bills were compared: of the ledger, of contracts, of tariffs.
CREATE TABLE billing_progress (
    one            boolean PRIMARY KEY DEFAULT true CHECK (one),
    ledger_until   timestamptz NOT NULL,
    terms_until    timestamptz NOT NULL,
    tariffs_sha256 text NOT NULL
);
CREATE INDEX usage_15m_changed ON usage_15m
    USING brin (changed_at) WITH (pages_per_range = 32, autosummarize = on);

-- The bill that the utility sent, as it was typed in.
CREATE TABLE utility_bill (
    home_id    text NOT NULL REFERENCES home,
    month      date NOT NULL CHECK (extract(day FROM month) = 1),
    lines      jsonb NOT NULL,                             -- {"energy": "…", "ft": "…", "total": "…"}
    entered_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (home_id, month)
);
