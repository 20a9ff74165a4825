-- PostgreSQL 18 and newer.
CREATE TABLE nasty.since_18 (id int PRIMARY KEY, a int, v int GENERATED ALWAYS AS (a * 3) VIRTUAL, r int4range);
INSERT INTO nasty.since_18 (id, a, r) VALUES (1, 2, '[1,2)'), (2, NULL, NULL);
ALTER TABLE nasty.since_18 ADD CONSTRAINT a_not_null NOT NULL a NOT VALID;
ALTER TABLE nasty.since_18 ADD CONSTRAINT not_enforced CHECK (id > 1000) NOT ENFORCED;
CREATE TABLE nasty.temporal (id int4range, during daterange, PRIMARY KEY (id, during WITHOUT OVERLAPS));
INSERT INTO nasty.temporal VALUES ('[1,2)', '[2020-01-01,2021-01-01)'), ('[1,2)', '[2021-01-01,2022-01-01)');
