-- What pgbaton keeps in each of the two databases of a migration. The schema is
-- never dumped, copied, compared or published, but for the marker tables.
CREATE SCHEMA IF NOT EXISTS pgbaton;
COMMENT ON SCHEMA pgbaton IS 'state of a pgbaton migration; removed by "pgbaton finish" or "pgbaton reset"';

-- The baton: which generation this side took or handed over (docs/architecture.md).
CREATE TABLE IF NOT EXISTS pgbaton.migration (
    name        text        PRIMARY KEY,
    id          text        NOT NULL,               -- the same on both sides; another run of the same name has another
    side        text        NOT NULL CHECK (side IN ('source', 'target')),
    method      text        NOT NULL CHECK (method IN ('stream', 'native', 'dump')),
    generation  bigint      NOT NULL,               -- of the last handover this side took part in; 0: none yet
    attempt     bigint      NOT NULL DEFAULT 0,     -- raised by whoever begins, or takes over, a handover
    handed_over boolean     NOT NULL,               -- this side gave the baton away in that generation
    took        boolean     NOT NULL,               -- this side received it in that generation
    made_at     timestamptz NOT NULL DEFAULT now(),
    ends        jsonb,                              -- the two databases, and what names of slots and subscriptions carry
    CHECK (NOT (handed_over AND took))
);
-- At most one migration per database: one row, whatever its name.
CREATE UNIQUE INDEX IF NOT EXISTS migration_only_one ON pgbaton.migration ((true));

-- Intentions, and what must be put back as it was: never the truth about what
-- exists, which the catalogs tell.
CREATE TABLE IF NOT EXISTS pgbaton.journal (
    kind  text        NOT NULL,
    key   text        NOT NULL,
    value jsonb       NOT NULL,
    at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (kind, key)
);
