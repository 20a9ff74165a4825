-- The same tables with their columns in another order.
CREATE TABLE parent_1 (t text, id integer);
ALTER TABLE parent ATTACH PARTITION parent_1 FOR VALUES FROM (0) TO (100);
CREATE TABLE parent_2 PARTITION OF parent FOR VALUES FROM (100) TO (200);
DO $$ BEGIN
	EXECUTE (SELECT 'CREATE TABLE wide (' || string_agg('c' || c || ' integer', ',' ORDER BY c DESC) || ')' FROM generate_series(1, 300) c);
END $$;
INSERT INTO empty VALUES (1, 'left over from an earlier attempt');
INSERT INTO generated (a) VALUES (-1);
INSERT INTO heir VALUES (-1);
