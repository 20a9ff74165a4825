INSERT INTO binary_types (id) VALUES (0);
INSERT INTO binary_types VALUES
(1, true, -32768, -2147483648, -9223372036854775808, 4294967295,
	'NaN', 'Infinity', 'NaN', -123456789012345.54321,
	E'tab\tnewline\nreturn\rbackslash\\ \\. \\N quote''"', 'größer', 'pad', 'name', 'x',
	'\x00ff', '4713-01-01 BC', '24:00:00', '24:00:00-15:59', '4713-01-01 00:00:00 BC', '4713-01-01 00:00:00+00 BC',
	'00000000-0000-0000-0000-000000000000', '{"a" :  1, "a":2}', '{"b": [1.10, null, "\u00e9"], "a": 1e400}',
	'::1/128', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05',
	B'10101', B'', 'FFFFFFFF/FFFFFFFF',
	'(1e-300,-Infinity)', '{1,2,3}', '[(0,0),(1,1)]', '((0,0),(1,1))', '[(0,0),(1,1),(2,0)]', '((0,0),(1,1),(2,0))', '<(0,0),1.5>',
	'sad', 1, '{}', 'ok'),
(2, false, 32767, 2147483647, 9223372036854775807, 0,
	'-Infinity', '-0', 1e130000 + 1e-16000, 0.00000,
	'', '', '', '', '', '', 'infinity', '00:00', '00:00:00+15:59', 'infinity', '-infinity',
	'ffffffff-ffff-ffff-ffff-ffffffffffff', '[]', 'null',
	'2001:db8::/32', '2001:db8::/32', 'ff:ff:ff:ff:ff:ff', 'ff:ff:ff:ff:ff:ff:ff:ff',
	B'00000', B'1111111111111111111111', '0/0',
	'(NaN,0)', '{0,-1,0.1}', '[(1e308,1),(1,-1e-308)]', '((5,6),(-7,-8))', '((0,0),(1,1),(2,0))', '((0,0))', '<(1,1),0>',
	'très content', 2147483647, '{"NULL",NULL,"a,b","c\"d"}', '喜'),
(3, NULL, 1, 1, 1, 1, 1.17549435e-38, 2.2250738585072014e-308, -0.000000000000000000000000000001, 1,
	'漢字 ☃ 😀', repeat('é', 30), 'ééééééé', repeat('n', 63), 'z', decode(repeat('00', 1000), 'hex'),
	'-infinity', '12:34:56.789', '12:34:56.789012+05:30', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00',
	'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '"text"', '{"": {}}', '0.0.0.0/0', '::/0', '00:00:00:00:00:00', '00:00:00:00:00:00:00:00',
	B'11111', B'1', '1/0', '(0.1,0.2)', '{1e10,1,0}', '[(0.1,0.2),(0.3,0.4)]', '((0.1,0.2),(0.3,0.4))', '[(0.1,0.2)]', '((0.1,0.2),(0.3,0.4))', '<(0.1,0.2),0.3>',
	'喜', 42, '[2:3]={x,y}', 'sad');
INSERT INTO binary_types (id, f4, f8, n)
	SELECT i, (random() * 1e10)::real / i, random() / i, random()::numeric / i * 1e20 FROM generate_series(10, 3000) i;

INSERT INTO binary_arrays (id) VALUES (0);
INSERT INTO binary_arrays
SELECT id, ARRAY[b, NULL], ARRAY[i2, NULL], ARRAY[[i4, 1], [2, NULL]], ARRAY[i8, NULL], ARRAY[o], ARRAY[f4, 'NaN'], ARRAY[f8, 'NaN'], ARRAY[n, 1.10],
	ARRAY[t, 'NULL', NULL], ARRAY[v], ARRAY[c], ARRAY[nm], ARRAY[q], ARRAY[by, '', NULL],
	ARRAY[d], ARRAY[tm], ARRAY[tz], ARRAY[ts], ARRAY[tstz], ARRAY[u], ARRAY[j], ARRAY[jb], ARRAY[ip], ARRAY[net], ARRAY[mac], ARRAY[mac8],
	ARRAY[bits], ARRAY[vb], ARRAY[lsn], ARRAY[pt], ARRAY[ln], ARRAY[ls], ARRAY[bx], ARRAY[pa], ARRAY[pg], ARRAY[ci]
FROM binary_types WHERE id IN (1, 2, 3);

SET lc_monetary TO 'C';
INSERT INTO text_types (id) VALUES (0);
INSERT INTO text_types VALUES
(1, '-178000000 years', '{1 mon -1 day +00:00:00.000001,NULL}', '-92233720368547758.08', '<a b="c">é</a>', 'a:1A fat:2B,4C', 'fat & !rat',
	'[1,)', '(,2020-01-01 00:00:00+00]', '$.a[*] ? (@ > 1)', '[-Infinity,1e-300)',
	'(1,"a,""b""")', '{"(1,x)","(,)"}', '{sad,NULL,喜}', 'public.bytes', 'numeric', 'pg_catalog.abs(bigint)',
	E'a\tb\nc\rd\\e\\.\\N', '-0', 'NaN', '\x5c2e0a09', '{"a" : "\u0000"}', '{NULL,"NULL",null}'),
(2, '1 year 2 mons -3 days 04:05:06.789', '{}', '1234.56', 'plain', '', '', 'empty', 'empty', 'strict $', 'empty',
	NULL, '{}', '{}', NULL, 'public.mood', NULL, '\.', 0.1, 1e-16000, '', '{}', '{}');

INSERT INTO bytes SELECT i, decode(lpad(to_hex(i), 2, '0') || '00' || lpad(to_hex(255 - i), 2, '0'), 'hex') FROM generate_series(0, 255) i;
INSERT INTO bytes SELECT 256, decode(string_agg(lpad(to_hex(i), 2, '0'), ''), 'hex') FROM generate_series(0, 255) i;

INSERT INTO big SELECT i, repeat('0123456789ab', 170000 + i), decode(repeat(md5(i::text), 60000), 'hex') FROM generate_series(1, 3) i;
ALTER TABLE big ALTER t SET STORAGE EXTERNAL;
INSERT INTO big SELECT i, repeat('é', 1000000 + i), NULL FROM generate_series(4, 5) i;
-- Rows of every size around the buffer, so that headers fall on its end.
INSERT INTO big SELECT i, repeat('x', i), NULL FROM generate_series(262130, 262145) i;

INSERT INTO no_columns SELECT FROM generate_series(1, 1234);
INSERT INTO only_generated SELECT FROM generate_series(1, 321);
INSERT INTO generated (b, a) SELECT i::text, i FROM generate_series(1, 100) i;
INSERT INTO "Strange schema"."A ""table"" with 'quotes', \ and 漢字" SELECT i, 'select', '☃' || i, '%s%d' FROM generate_series(1, 100) i;
INSERT INTO parent SELECT i, 'row ' || i FROM generate_series(1, 199) i;
INSERT INTO inherited VALUES (1, 'parent');
INSERT INTO heir VALUES (2, 'child', 'more');
DO $$ BEGIN
	EXECUTE (SELECT 'INSERT INTO wide SELECT ' || string_agg(c % 7 || '+ i', ',') || ' FROM generate_series(1, 200) i' FROM generate_series(1, 300) c);
END $$;
