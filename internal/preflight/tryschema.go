package preflight

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"pgbaton/internal/postgres"
	"pgbaton/internal/schema"
)

// TrySchema says whether the source's definitions are tried on the target.
type TrySchema int

// What is tried.
const (
	TryNever TrySchema = iota
	TryFew             // what start does unless told otherwise: where it takes a moment
	TryAlways
)

// fewObjects is up to how many objects TryFew tries.
const fewObjects = 1000

// shownFailures is how many failures are told: one brings others about.
const shownFailures = 50

// objectsSQL counts what a schema archive has entries for. $1 is left out.
var objectsSQL = fmt.Sprintf(`
SELECT ((SELECT pg_catalog.count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'i', 'I', 'S', 'v', 'm', 'f', 'c') AND c.oid <> ALL ($1) AND %[1]s)
	+ (SELECT pg_catalog.count(*) FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE %[1]s AND %[2]s)
	+ (SELECT pg_catalog.count(*) FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal)
	+ (SELECT pg_catalog.count(*) FROM pg_catalog.pg_policy))::int`, userSchema, notExtension("p.oid", "pg_proc"))

// checkTrySchema restores the definitions into a throw-away database of the target,
// which is what start will do: each error there is one that it would meet.
func checkTrySchema(ctx context.Context, s *survey, e *end) error {
	if s.TrySchema == TryNever || e.stands || !s.fresh(s.source) || !s.fresh(e) {
		return nil
	}
	var objects int
	if err := s.source.conn.QueryRow(ctx, objectsSQL, s.source.relationsOut).Scan(&objects); err != nil {
		return postgres.Wrap(postgres.Source, "counting objects", err)
	}
	if s.TrySchema == TryFew && objects > fewObjects {
		e.add(Finding{Code: "schema-untried", Severity: Info, Side: e.Side,
			Text:   fmt.Sprintf("whether the target can hold the source's definitions was not tried: %s are more than start tries by itself", plural(objects, "object")),
			Remedy: "pgbaton check --try-schema, or start --try-schema"})
		return nil
	}
	if !e.role.super && !e.role.createDB {
		e.add(Finding{Code: "schema-untried", Severity: Info, Side: e.Side,
			Text:   fmt.Sprintf("whether the target can hold the source's definitions was not tried: role %s may not create a throw-away database", e.user()),
			Remedy: statements(fmt.Sprintf("ALTER ROLE %s CREATEDB", e.user()))})
		return nil
	}
	tools, err := schema.FindTools(s.PgBin, max(s.Source.Version(), s.Target.Version()).Major())
	if err != nil {
		return nil // a finding of its own
	}
	t := schema.Trial{Tools: tools, Source: s.Source, Target: s.Target, SourceConn: s.source.conn, Exclusion: s.source.excluded, Roles: s.Roles}
	if e.exists {
		t.TargetConn = e.conn
	}
	failures, err := t.Run(ctx)
	if err != nil {
		return s.untried(ctx, e, err)
	}
	failures, elsewhere := withoutExtensions(failures)
	severity := Blocker
	if len(elsewhere) > 0 {
		severity = Warning // perhaps for want of the extension
		e.add(Finding{Code: "schema-untried", Severity: Warning, Side: e.Side, Objects: elsewhere,
			Text: fmt.Sprintf("whether the target can hold all of the source's definitions could not be tried: %s cannot be created in a throw-away database by role %s; a server may allow it in the target database all the same",
				plural(len(elsewhere), "extension"), e.user()),
			Remedy: "compare the server's message with what the target database allows, as pg_cron does by cron.database_name; where it will do there, --try-schema=false leaves the trial out"})
	}
	for i, f := range failures {
		if i == shownFailures {
			e.add(Finding{Code: "schema-restore", Severity: severity, Side: e.Side,
				Text: fmt.Sprintf("%s more that cannot be restored: most come of those before", plural(len(failures)-i, "definition")), Remedy: "mend those first, then check again"})
			break
		}
		if i == 0 || f.Object == "" || f.Object != failures[i-1].Object { // its owner and grants fail too
			e.add(restoreFinding(e, f, severity))
		}
	}
	return nil
}

// restoreFinding is what a failed restore of one object means.
func restoreFinding(e *end, f schema.Failure, severity Severity) Finding {
	message, statement := serverSays(f)
	what, objects := "a definition", []string(nil)
	if f.Object != "" {
		what, objects = f.Object, []string{f.Object}
	}
	if statement != "" {
		objects = append(objects, statement)
	}
	text := fmt.Sprintf("%s cannot be restored on the target: %s", what, message)
	if severity != Blocker {
		text = fmt.Sprintf("%s could not be restored in the trial, which may come of what it lacked: %s", what, message)
	}
	return Finding{Code: "schema-restore", Severity: severity, Side: e.Side, Objects: objects, Text: text,
		Remedy: "change its definition on the source so that the target's version accepts it, or drop it there; or install on the target what it needs"}
}

// serverSays is the server's message on one line, and the first line of the statement.
func serverSays(f schema.Failure) (message, statement string) {
	message, statement, _ = strings.Cut(f.Message, "\nCommand was: ")
	statement, _, _ = strings.Cut(strings.TrimSpace(statement), "\n")
	return strings.Join(strings.Fields(strings.TrimPrefix(message, "could not execute query: ")), " "), statement
}

// untried tells a trial that did not come to an end. That pg_dump fails is what start
// would meet too.
func (s *survey) untried(ctx context.Context, e *end, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var sided *postgres.Error
	if errors.As(err, &sided) && sided.Side == postgres.Source {
		s.add(Finding{Code: "schema-archive", Severity: Blocker, Side: sided.Side, Text: s.source.redact(err.Error()),
			Remedy: "remove what pg_dump complains about; missing privileges are findings of their own"})
		return nil
	}
	e.add(Finding{Code: "schema-untried", Severity: Warning, Side: e.Side, Text: "whether the target can hold the source's definitions could not be tried: " + e.redact(postgres.Describe(err)),
		Remedy: postgres.Hint(err)})
	return nil
}

// withoutExtensions tells extensions that could not be created from all other
// failures. That is no sign of what start will meet: an extension may be allowed in
// one database of a server only, or be in the target database already.
func withoutExtensions(failures []schema.Failure) (others []schema.Failure, extensions []string) {
	for _, f := range failures {
		switch message, statement := serverSays(f); {
		case strings.HasPrefix(statement, "CREATE EXTENSION "):
			extensions = append(extensions, fmt.Sprintf("%s: %s", f.Object, message))
		case !strings.HasPrefix(statement, "COMMENT ON EXTENSION "):
			others = append(others, f)
		}
	}
	return others, extensions
}
