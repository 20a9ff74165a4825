-- What the writers of pgtest write to. Every transaction of a writer has a number and touches all three
-- tables, so that their contents follow from the set of committed numbers.
CREATE SCHEMA IF NOT EXISTS app;

-- one row per committed transaction
CREATE TABLE app.writer_log (
    writer  int NOT NULL,
    seq     bigint NOT NULL,
    payload text NOT NULL,
    PRIMARY KEY (writer, seq)
);

-- the same without a key: here nothing but the replication itself keeps a row from being doubled
CREATE TABLE app.writer_heap (
    writer  int NOT NULL,
    seq     bigint NOT NULL,
    payload text NOT NULL
);

-- a row per writer and slot, updated, deleted and inserted again under a number from a sequence
CREATE TABLE app.writer_slot (
    id      serial PRIMARY KEY,
    writer  int NOT NULL,
    slot    int NOT NULL,
    seq     bigint NOT NULL,
    payload text NOT NULL,
    UNIQUE (writer, slot)
);
