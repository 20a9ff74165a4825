-- PostgreSQL 15 and newer.
CREATE TABLE nasty.since_15 (id int PRIMARY KEY, a int, UNIQUE NULLS NOT DISTINCT (a), scaled numeric(3, 5), rounded numeric(5, -2));
INSERT INTO nasty.since_15 VALUES (1, NULL, 0.00123, 12345), (2, 1, NULL, NULL);
CREATE VIEW nasty.invoker WITH (security_invoker = true) AS SELECT * FROM nasty.rls;
