package traffic

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/cluster"
)

func versionName(v string) string {
	if v == "" {
		return "newest"
	}
	return v
}

// TestMoveUnderLoad moves clients to another server: no query may fail, and none may reach the old side
// after the switch.
func TestMoveUnderLoad(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	type test struct {
		name     string
		load     loadOptions
		settings map[string]string
		newOnly  bool
	}
	for _, test := range []test{
		{name: "simple", load: loadOptions{mode: pgx.QueryExecModeSimpleProtocol, clients: 10}},
		{name: "extended", load: loadOptions{mode: pgx.QueryExecModeExec, clients: 10}},
		{name: "prepared", load: loadOptions{mode: pgx.QueryExecModeCacheStatement, clients: 10},
			settings: map[string]string{"max_prepared_statements": "100"}, newOnly: true},
		{name: "storm", load: loadOptions{mode: pgx.QueryExecModeSimpleProtocol, clients: 4, storm: 6}},
		{name: "statement pooling", load: loadOptions{mode: pgx.QueryExecModeSimpleProtocol, clients: 10},
			settings: map[string]string{"pool_mode": "statement"}},
	} {
		for _, version := range versions {
			if test.newOnly && version != "" {
				continue
			}
			t.Run(test.name+"/"+versionName(version), func(t *testing.T) {
				t.Parallel()
				pooler := p.pooler(t, version, cluster.PoolerOptions{Settings: test.settings})
				l := startLoad(t, pooler, test.load)
				l.awaitMore(t, 0, 50)
				m, r := mover(t, pooler), p.route()
				mustCheck(t, m, r)
				l.awaitMore(t, 0, 50)
				began := time.Now()
				pause := must(t, m.Pause, r)
				held, _ := l.counts()
				change := must(t, m.Switch, r)
				if got := shown(t, pooler, "shop", "paused"); got != "1" {
					t.Errorf("paused is %s after Switch", got)
				}
				resume := must(t, m.Resume, r)
				all := time.Since(began)
				l.awaitMore(t, 1, 100)
				l.mustNotHaveFailed(t)
				if now, _ := l.counts(); now[0] > held[0] {
					// What was answered before PAUSE was complete may be counted a moment later.
					if now[0] > held[0]+test.load.clients+test.load.storm {
						t.Errorf("the old side answered %d queries, %d until PAUSE was complete", now[0], held[0])
					}
				}
				t.Logf("pause %v, switch %v, resume %v, together %v; longest query %v", pause, change, resume, all, l.longest)
			})
		}
	}
}
