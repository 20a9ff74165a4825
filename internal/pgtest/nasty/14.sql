-- PostgreSQL 14 and newer.
CREATE TABLE nasty.since_14 (id int PRIMARY KEY, m int4multirange, n numeric, mf nasty.float_multirange);
INSERT INTO nasty.since_14 VALUES (1, '{[1,3),[5,7)}', 'Infinity', '{[0.1,0.2]}'), (2, '{}', '-Infinity', '{}');
CREATE FUNCTION nasty.atomic(i int) RETURNS bigint LANGUAGE sql BEGIN ATOMIC; SELECT count(*) FROM nasty.tree WHERE id < i; END;
CREATE STATISTICS nasty.expression_stats ON (id % 10), (length(v)) FROM nasty.tree;
