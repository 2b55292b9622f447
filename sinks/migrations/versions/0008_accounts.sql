-- Devices' accounts on the MQTT broker. What an account may follows from the device's address.

CREATE TABLE mqtt_account (
    device_id       integer PRIMARY KEY REFERENCES device,
    user_name       text NOT NULL UNIQUE CHECK (user_name ~ '^[a-z0-9-]{1,64}$'),  -- and client id
    password_hash   bytea NOT NULL CHECK (octet_length(password_hash) = 64),  -- PBKDF2-SHA512
    password_salt   bytea NOT NULL,
    password_rounds integer NOT NULL CHECK (password_rounds > 0),
    token_sha256    bytea NOT NULL UNIQUE,                 -- the same token as bearer of HTTP
    created_at      timestamptz NOT NULL DEFAULT now(),
    token_at        timestamptz NOT NULL DEFAULT now(),    -- when the token was made
    revoked_at      timestamptz,
    node            text                                   -- where topics name it without its home
);
-- `device/<node>/…` and `cmd/<node>/…` name no home.
CREATE UNIQUE INDEX mqtt_account_node ON mqtt_account (node) WHERE revoked_at IS NULL;
