package preflight_test

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
	"pgbaton/internal/postgres"
	"pgbaton/internal/preflight"
)

// options say how one check is run; the zero value is a superuser's healthy one
// between databases of the same name.
type options struct {
	db, targetDB         string
	user, targetUser     string
	method               string
	jobs                 int
	indexJobs, groups    int
	roles                bool
	accept               []string
	pgBin                string
	sourceFromTarget     string // instead of the source's own string
	targetFromSource     string
	sourcePw, targetPw   string
	sourceURI, targetURI string // instead of all that
}

// input makes the input of a check between two clusters.
func input(t *testing.T, source, target *cluster.Cluster, o options) preflight.Input {
	t.Helper()
	or := func(values ...string) string {
		for _, v := range values {
			if v != "" {
				return v
			}
		}
		return ""
	}
	server := func(side postgres.Side, uri string) *postgres.Server {
		s, err := postgres.NewServer(side, uri)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	given := func(s *postgres.Server, uri string) postgres.Reach {
		c, err := postgres.ParseGiven(uri)
		if err != nil {
			t.Fatal(err)
		}
		return s.ReachBy(c)
	}
	user := or(o.user, "postgres")
	in := preflight.Input{Name: "m", Method: preflight.Method(or(o.method, "stream")), Jobs: max(1, o.jobs), IndexJobs: o.indexJobs, Groups: o.groups, Roles: o.roles, Accept: o.accept, PgBin: o.pgBin}
	if in.PgBin == "" {
		in.PgBin = target.BinDir()
	}
	in.Source = server(postgres.Source, or(o.sourceURI, source.ConnStringAs(user, o.sourcePw, o.db)))
	in.Target = server(postgres.Target, or(o.targetURI, target.ConnStringAs(or(o.targetUser, user), o.targetPw, or(o.targetDB, o.db))))
	in.SourceFromTarget = given(in.Source, o.sourceFromTarget)
	in.TargetFromSource = given(in.Target, o.targetFromSource)
	return in
}

// run checks two clusters.
func run(t *testing.T, source, target *cluster.Cluster, o options) preflight.Report {
	t.Helper()
	return runInput(t, input(t, source, target, o))
}

func runInput(t *testing.T, in preflight.Input) preflight.Report {
	t.Helper()
	r, err := preflight.Run(t.Context(), in)
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	for _, f := range r.Findings {
		for _, c := range []postgres.Conninfo{in.Source.Conninfo(), in.Target.Conninfo(), in.SourceFromTarget.For(in.Target.Version()), in.TargetFromSource.For(in.Source.Version())} {
			if p := c["password"]; p != "" && strings.Contains(fmt.Sprint(f), p) {
				t.Errorf("a password is in the finding %+v", f)
			}
		}
	}
	return r
}

// find returns the finding of a code and side, nil when there is none.
func find(r preflight.Report, code string, side postgres.Side) *preflight.Finding {
	for i, f := range r.Findings {
		if f.Code == code && f.Side == side {
			return &r.Findings[i]
		}
	}
	return nil
}

// want returns a finding that must be there, with this severity.
func want(t *testing.T, r preflight.Report, code string, side postgres.Side, severity preflight.Severity) preflight.Finding {
	t.Helper()
	f := find(r, code, side)
	if f == nil {
		t.Fatalf("no finding %s of the %s in:\n%s", code, side, print(r))
	}
	if f.Severity != severity {
		t.Errorf("%s is a %s, not a %s", code, f.Severity, severity)
	}
	return *f
}

// wantNot fails when the finding is there.
func wantNot(t *testing.T, r preflight.Report, code string, side postgres.Side) {
	t.Helper()
	if f := find(r, code, side); f != nil {
		t.Errorf("finding %s of the %s is there: %s\n%s\n%s", code, side, f.Text, strings.Join(f.Objects, "\n"), f.Remedy)
	}
}

func print(r preflight.Report) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s %s %s: %s\n\t%s\n\t%s\n", f.Severity, f.Code, f.Side, f.Text, strings.Join(f.Objects, "; "), strings.ReplaceAll(f.Remedy, "\n", "\n\t"))
	}
	return b.String()
}

// apply runs a remedy as psql would: statement by statement. One may leave all to
// another finding's.
func apply(t *testing.T, uri, remedy string) {
	t.Helper()
	var sql []string
	for _, line := range strings.Split(remedy, "\n") {
		if !strings.HasPrefix(line, "--") && line != "" {
			sql = append(sql, line)
		}
	}
	if len(sql) == 0 && !strings.Contains(remedy, ": by the remedy of ") {
		t.Fatalf("the remedy is no SQL: %s", remedy)
	}
	pgtest.Exec(t, uri, sql...)
}

// catalogsSQL fingerprints what a check could have left behind.
const catalogsSQL = `
	SELECT string_agg(x, E'\n') FROM (
		SELECT 'slot ' || slot_name FROM pg_replication_slots
		UNION ALL SELECT 'subscription ' || subname FROM pg_subscription
		UNION ALL SELECT 'origin ' || roname FROM pg_replication_origin
		UNION ALL SELECT 'publication ' || pubname FROM pg_publication
		UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'
		UNION ALL SELECT 'relation ' || oid || ' ' || relname FROM pg_class
		UNION ALL SELECT 'database ' || datname || coalesce(datacl::text, '') FROM pg_database
		UNION ALL SELECT 'setting ' || s::text FROM pg_db_role_setting s
		ORDER BY 1
	) AS t (x)`

func catalogs(t *testing.T, c *cluster.Cluster, db string) string {
	t.Helper()
	return value[string](t, c.ConnString(db), catalogsSQL)
}

// value asks one thing in a session that does not stay.
func value[T any](t *testing.T, uri, sql string, args ...any) T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	return pgtest.QueryValue[T](t, conn, sql, args...)
}

// scenario is two databases, healthy at first, and problems that are then made
// in them.
type scenario struct {
	options
	before, beforeTarget   string // in the clusters' maintenance databases
	asOwner                bool   // the databases belong to the users
	noTarget               bool   // the target database does not exist
	healthy, healthyTarget string // in the databases: what is no problem
	problems               []problem
}

// problem is one finding that is missing at first, then there, and gone again
// after its remedy if that is SQL.
type problem struct {
	code                     string
	side                     postgres.Side
	severity                 preflight.Severity
	source, target           string   // in the databases
	sourceAdmin, targetAdmin string   // in the maintenance databases
	hold                     string   // a user whose session to the source's database stays open
	says                     []string // in text, objects or remedy
	remedied                 bool
	on                       postgres.Side // where the remedy is run, if not on the finding's side

	// What somebody does who follows a remedy that is a sentence.
	asSaid, asSaidTarget, asSaidTargetAdmin string
	asSaidOptions                           func(*options)
}

func exec(t *testing.T, c *cluster.Cluster, db, sql string) {
	t.Helper()
	if sql != "" {
		pgtest.Exec(t, c.ConnString(db), strings.Split(sql, ";\n")...)
	}
}

// play runs a scenario.
func (sc scenario) play(t *testing.T, source, target *cluster.Cluster) {
	t.Helper()
	if sc.db == "" {
		sc.db = "its db"
	}
	create := func(c *cluster.Cluster, user string) {
		sql := fmt.Sprintf(`CREATE DATABASE "%s"`, sc.db)
		if sc.asOwner && user != "" {
			sql += " OWNER " + user
		}
		exec(t, c, "postgres", sql)
	}
	exec(t, source, "postgres", sc.before)
	exec(t, target, "postgres", sc.beforeTarget)
	create(source, sc.user)
	exec(t, source, sc.db, sc.healthy)
	if !sc.noTarget {
		create(target, sc.targetUser)
		exec(t, target, sc.db, sc.healthyTarget)
	}
	r := run(t, source, target, sc.options)
	for _, p := range sc.problems {
		wantNot(t, r, p.code, p.side)
	}

	for _, p := range sc.problems {
		exec(t, source, "postgres", p.sourceAdmin)
		exec(t, target, "postgres", p.targetAdmin)
		exec(t, source, sc.db, p.source)
		exec(t, target, sc.db, p.target)
		if p.hold != "" {
			pgtest.Connect(t, source.ConnStringAs(p.hold, "", sc.db))
		}
	}
	r = run(t, source, target, sc.options)
	var remedied []problem
	var remedies []preflight.Finding
	for _, p := range sc.problems {
		f := want(t, r, p.code, p.side, p.severity)
		for _, s := range p.says {
			if !strings.Contains(f.Text+"\n"+strings.Join(f.Objects, "\n")+"\n"+f.Remedy, s) {
				t.Errorf("%q is not in %+v", s, f)
			}
		}
		if p.severity == preflight.Blocker && f.Remedy == "" {
			t.Errorf("%s is a blocker without a remedy", p.code)
		}
		said := p.asSaid != "" || p.asSaidTarget != "" || p.asSaidTargetAdmin != "" || p.asSaidOptions != nil
		if said && f.Remedy == "" {
			t.Errorf("%s says nothing to follow", p.code)
		}
		if p.remedied || said {
			remedied, remedies = append(remedied, p), append(remedies, f)
		}
	}
	acceptable := []string{"equal-rows", "large-objects", "unlogged-tables"}
	accepted := sc.options
	accepted.accept = acceptable
	r = run(t, source, target, accepted)
	for _, p := range sc.problems {
		if slices.Contains(acceptable, p.code) {
			want(t, r, p.code, p.side, preflight.Warning)
		}
	}

	for i, f := range remedies {
		on, db, side := source, sc.db, cmp.Or(remedied[i].on, f.Side)
		if side == postgres.Target {
			on = target
		}
		if side == postgres.Target && sc.noTarget {
			db = "postgres"
		}
		if remedied[i].remedied {
			apply(t, on.ConnString(db), f.Remedy)
		}
	}
	for _, p := range remedied {
		exec(t, source, sc.db, p.asSaid)
		exec(t, target, sc.db, p.asSaidTarget)
		exec(t, target, "postgres", p.asSaidTargetAdmin)
		if p.asSaidOptions != nil {
			p.asSaidOptions(&sc.options)
		}
	}
	r = run(t, source, target, sc.options)
	for _, p := range remedied {
		wantNot(t, r, p.code, p.side)
	}
}

// writeFile makes an empty file in a server's directory, readable by its account.
func writeFile(t *testing.T, name string) {
	t.Helper()
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
}
