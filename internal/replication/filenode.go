package replication

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
)

// StreamsTruncate says whether a TRUNCATE gets from a publisher to a subscriber:
// both must be 11 or newer. An older subscriber dies of one.
func StreamsTruncate(publisher, subscriber postgres.Version) bool {
	return publisher.Major() >= 11 && subscriber.Major() >= 11
}

// filenodeEntries are the file nodes of a publisher's tables, by name.
var filenodeEntries = journal.Many[map[string]uint32](journal.Filenodes)

// RememberFilenodes notes, on the publisher of a stream without TRUNCATE, the
// files of a group's tables (rule 16): a truncated table has another one.
func RememberFilenodes(ctx context.Context, publisher postgres.DB, sv postgres.Version, g Group) error {
	pv := postgres.VersionOf(publisher)
	if StreamsTruncate(pv, sv) {
		return nil
	}
	now, err := filenodes(ctx, publisher, g)
	if err != nil {
		return err
	}
	return filenodeEntries.Put(ctx, publisher, g.Name(), now)
}

// ReadFilenodes reads what is remembered of every group.
func ReadFilenodes(ctx context.Context, publisher postgres.DB) error {
	_, err := filenodeEntries.List(ctx, publisher)
	return err
}

// Rewritten lists the tables whose file has changed since it was remembered:
// truncated, or rewritten by VACUUM FULL, CLUSTER or ALTER TABLE, which cannot be
// told apart. In a stream that carries TRUNCATE there are none.
func Rewritten(ctx context.Context, publisher postgres.DB, sv postgres.Version, g Group) ([]string, error) {
	pv := postgres.VersionOf(publisher)
	if StreamsTruncate(pv, sv) {
		return nil, nil
	}
	was, known, err := filenodeEntries.Get(ctx, publisher, g.Name())
	if err != nil || !known {
		return nil, err
	}
	now, err := filenodes(ctx, publisher, g)
	if err != nil {
		return nil, err
	}
	var changed []string
	for table, node := range was {
		if n, exists := now[table]; exists && n != node {
			changed = append(changed, fmt.Sprintf("table %s was truncated or rewritten, which does not get from PostgreSQL %s to %s", table, pv, sv))
		}
	}
	return changed, nil
}

func filenodes(ctx context.Context, publisher postgres.DB, g Group) (map[string]uint32, error) {
	rows, err := publisher.Query(ctx, `
		SELECT n.nspname, c.relname, pg_catalog.pg_relation_filenode(c.oid)
		FROM pg_catalog.pg_publication p
		JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid
		JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE p.pubname = $1`, g.Name())
	if err != nil {
		return nil, err
	}
	nodes := map[string]uint32{}
	var t postgres.Ident
	var node uint32
	_, err = pgx.ForEachRow(rows, []any{&t.Schema, &t.Name, &node}, func() error {
		nodes[t.String()] = node
		return nil
	})
	return nodes, err
}
