CREATE SCHEMA "Strange schema";
CREATE TYPE mood AS ENUM ('sad', 'ok', 'très content', '喜');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN words AS text[];
CREATE DOMAIN humour AS mood;
CREATE TYPE pair AS (a integer, b text);
CREATE TYPE span AS RANGE (subtype = float8);

CREATE TABLE binary_types (
	id integer,
	b boolean, i2 smallint, i4 integer, i8 bigint, o oid,
	f4 real, f8 double precision, n numeric, n2 numeric(20, 5),
	t text, v varchar(30), c char(7), nm name, q "char",
	by bytea,
	d date, tm time(3), tz timetz, ts timestamp, tstz timestamptz,
	u uuid, j json, jb jsonb,
	ip inet, net cidr, mac macaddr, mac8 macaddr8,
	bits bit(5), vb bit varying,
	lsn pg_lsn,
	pt point, ln line, ls lseg, bx box, pa path, pg polygon, ci circle,
	m mood, dp positive, dw words, dm humour
);
CREATE TABLE binary_arrays (
	id integer,
	b boolean[], i2 smallint[], i4 integer[], i8 bigint[], o oid[],
	f4 real[], f8 double precision[], n numeric[],
	t text[], v varchar(30)[], c char(7)[], nm name[], q "char"[],
	by bytea[],
	d date[], tm time[], tz timetz[], ts timestamp[], tstz timestamptz[],
	u uuid[], j json[], jb jsonb[],
	ip inet[], net cidr[], mac macaddr[], mac8 macaddr8[],
	bits bit(5)[], vb bit varying[],
	lsn pg_lsn[],
	pt point[], ln line[], ls lseg[], bx box[], pa path[], pg polygon[], ci circle[]
);
CREATE TABLE text_types (
	id integer,
	iv interval, ivs interval[], cash money, x xml, tv tsvector, tq tsquery,
	r int4range, tr tstzrange, jp jsonpath, own span,
	p pair, ps pair[], ms mood[], cls regclass, typ regtype, proc regprocedure,
	t text, f8 double precision, n numeric, by bytea, j json, nulls text[]
);
CREATE TABLE bytes (id integer, by bytea);
CREATE TABLE big (id integer, t text, by bytea);
CREATE TABLE no_columns ();
CREATE TABLE only_generated (g integer GENERATED ALWAYS AS (7) STORED);
CREATE TABLE empty (id integer, t text);
CREATE TABLE generated (a integer, twice integer GENERATED ALWAYS AS (a * 2) STORED, b text);
CREATE TABLE "Strange schema"."A ""table"" with 'quotes', \ and 漢字" (
	"a column; --" integer, "SELECT" text, "Ünïcode ☃" text, "per%cent" text, "dropped" text
);
ALTER TABLE "Strange schema"."A ""table"" with 'quotes', \ and 漢字" DROP COLUMN "dropped";
CREATE TABLE parent (id integer, t text) PARTITION BY RANGE (id);
CREATE TABLE inherited (id integer, t text);
CREATE TABLE heir (more text) INHERITS (inherited);
