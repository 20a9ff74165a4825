CREATE TABLE parent_1 PARTITION OF parent FOR VALUES FROM (0) TO (100);
CREATE TABLE parent_2 (t text, id integer);
ALTER TABLE parent ATTACH PARTITION parent_2 FOR VALUES FROM (100) TO (200);
DO $$ BEGIN
	EXECUTE (SELECT 'CREATE TABLE wide (' || string_agg('c' || c || ' integer', ',' ORDER BY c) || ')' FROM generate_series(1, 300) c);
END $$;
