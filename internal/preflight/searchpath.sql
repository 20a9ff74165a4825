-- The expressions that the server evaluates by itself when rows are copied, applied,
-- indexed or analyzed, and that call functions of the user's: what it is, the table
-- whose rows it reads, the expression, and the functions that it names (those in C,
-- and those that set a search_path of their own, find everything). Filled in by
-- version: the condition for a column that is generated and stored, and the
-- expressions of extended statistics. $1 are tables that are left out.
WITH RECURSIVE calls (class, obj, sub, function) AS ( -- few, so they come first
	SELECT d.classid::pg_catalog.regclass, d.objid, d.objsubid, p.oid
	FROM pg_catalog.pg_depend d
	LEFT JOIN pg_catalog.pg_operator o ON d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND o.oid = d.refobjid
	JOIN pg_catalog.pg_proc p ON p.oid = coalesce(o.oprcode, d.refobjid)
	JOIN pg_catalog.pg_language l ON l.oid = p.prolang
	WHERE d.refclassid IN ('pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass)
		AND d.refobjid >= 16384 AND l.lanname NOT IN ('c', 'internal')
		AND NOT EXISTS (SELECT FROM pg_catalog.unnest(p.proconfig) AS s WHERE s LIKE 'search\_path=%%')
), base (domain, type, typmod, level) AS (
	SELECT oid, typbasetype, typtypmod, 1 FROM pg_catalog.pg_type WHERE typtype = 'd'
	UNION ALL
	SELECT b.domain, t.typbasetype, t.typtypmod, b.level + 1
	FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
), domains (oid, base, levels) AS (
	SELECT domain, (pg_catalog.array_agg(pg_catalog.format_type(type, typmod) ORDER BY level DESC))[1], domain || pg_catalog.array_agg(type)
	FROM base GROUP BY domain
), expressions (what, rel, expression, function) AS (
	SELECT pg_catalog.format('generated column %%I of %%s', a.attname, d.adrelid::pg_catalog.regclass), d.adrelid,
		pg_catalog.pg_get_expr(d.adbin, d.adrelid), c.function
	FROM calls c
	JOIN pg_catalog.pg_attrdef d ON c.class = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND c.obj = d.oid
		OR c.class = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.obj = d.adrelid AND c.sub = d.adnum -- up to 14
	JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
	WHERE %[1]s
	UNION ALL
	SELECT pg_catalog.format('constraint %%I of %%s', k.conname, k.conrelid::pg_catalog.regclass), k.conrelid,
		pg_catalog.pg_get_expr(k.conbin, k.conrelid), c.function
	FROM calls c JOIN pg_catalog.pg_constraint k ON c.class = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND c.obj = k.oid
	WHERE k.contype = 'c' AND k.conrelid <> 0
	UNION ALL
	SELECT pg_catalog.format('domain %%s, the type of column %%I of %%s', d.oid::pg_catalog.regtype, a.attname, a.attrelid::pg_catalog.regclass), a.attrelid,
		pg_catalog.format('CAST(CAST(%%I AS %%s) AS %%s)', a.attname, d.base, d.oid::pg_catalog.regtype), c.function
	FROM calls c JOIN pg_catalog.pg_constraint k ON c.class = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND c.obj = k.oid AND k.contypid <> 0
	JOIN domains d ON k.contypid = ANY (d.levels)
	JOIN pg_catalog.pg_attribute a ON a.atttypid = d.oid AND a.attnum > 0 AND NOT a.attisdropped
	UNION ALL
	SELECT pg_catalog.format('index %%s', i.indexrelid::pg_catalog.regclass), i.indrelid,
		pg_catalog.pg_get_indexdef(i.indexrelid, n.n, false), c.function
	FROM calls c JOIN pg_catalog.pg_index i ON c.class = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.obj = i.indexrelid
	CROSS JOIN LATERAL pg_catalog.generate_series(1, i.indnatts) AS n (n)
	WHERE i.indkey[n.n - 1] = 0
	UNION ALL
	SELECT pg_catalog.format('predicate of index %%s', i.indexrelid::pg_catalog.regclass), i.indrelid,
		pg_catalog.pg_get_expr(i.indpred, i.indrelid), c.function
	FROM calls c JOIN pg_catalog.pg_index i ON c.class = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.obj = i.indexrelid
	WHERE i.indpred IS NOT NULL
	UNION ALL
	SELECT pg_catalog.format('partition key of %%s', p.partrelid::pg_catalog.regclass), p.partrelid,
		'ROW(' || pg_catalog.pg_get_expr(p.partexprs, p.partrelid) || ')', c.function
	FROM calls c JOIN pg_catalog.pg_partitioned_table p ON c.class = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.obj = p.partrelid
	WHERE p.partexprs IS NOT NULL
	%[2]s
)
SELECT e.what, e.rel, e.expression, pg_catalog.array_agg(DISTINCT e.function)
FROM expressions e
JOIN pg_catalog.pg_class r ON r.oid = e.rel
JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
WHERE e.rel <> ALL ($1) AND r.relkind IN ('r', 'p', 'm')
	AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgbaton')
GROUP BY e.what, e.rel, e.expression
ORDER BY e.what COLLATE "C", e.expression COLLATE "C"
