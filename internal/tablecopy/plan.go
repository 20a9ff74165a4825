package tablecopy

import (
	"context"

	"pgbaton/internal/postgres"
)

// Statement is what a load would run on one side.
type Statement struct {
	Side postgres.Side
	SQL  string
}

// Plan lists what Run would run for a job, table by table. It reads the source
// only: to see where big tables are divided.
func Plan(ctx context.Context, job Job) (list []Statement, err error) {
	l := &loader{job: job}
	splits, release, err := l.planSplits(ctx)
	defer release()
	if err != nil {
		return nil, err
	}
	on := func(side postgres.Side, sql ...string) {
		for _, s := range sql {
			list = append(list, Statement{side, s})
		}
	}
	for i := range job.Tables {
		t := &job.Tables[i]
		if t.Snapshot != "" {
			for _, condition := range splits[t.OID] {
				from, to := partStatements(t.Table, condition)
				on(postgres.Source, from)
				on(postgres.Target, to)
			}
			if splits[t.OID] == nil {
				from, to := Statements(t.Table, t.Bytes > smallTable || t.runsUserCode())
				on(postgres.Source, from)
				on(postgres.Target, to)
			}
		}
		for _, x := range t.Indexes {
			switch {
			case x.Built:
			case x.whole():
				on(postgres.Target, keySQL(t.Ident, x))
			default:
				on(postgres.Target, l.buildSQL(x)...)
			}
		}
		on(postgres.Target, finishSQL(t, nil)...)
	}
	for _, f := range job.ForeignKeys {
		if !f.Added {
			on(postgres.Target, f.AddSQL())
		}
		if f.Valid {
			on(postgres.Target, f.ValidateSQL())
		}
	}
	return list, nil
}
