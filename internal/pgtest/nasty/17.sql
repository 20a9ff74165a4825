-- PostgreSQL 17 and newer.
CREATE TABLE nasty.since_17 (id int GENERATED ALWAYS AS IDENTITY, v text, i interval, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE nasty.since_17_p PARTITION OF nasty.since_17 FOR VALUES FROM (1) TO (1000000);
INSERT INTO nasty.since_17 (v, i) VALUES ('a', 'infinity'), ('b', '-infinity');
