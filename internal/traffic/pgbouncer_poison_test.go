package traffic

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/cluster"
)

// TestConnectionCutOff: with min_pool_size PgBouncer opens connections although the database is paused,
// cuts them off, and takes that for a failure of the server. Check refuses; and if it happens all the
// same, clients do not wait for server_login_retry.
func TestConnectionCutOff(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	for _, version := range versions {
		t.Run(versionName(version), func(t *testing.T) {
			t.Parallel()
			pooler := p.pooler(t, version, cluster.PoolerOptions{Settings: map[string]string{"min_pool_size": "2"}})
			m, r := mover(t, pooler), p.route()
			hasReason(t, check(t, m, r), "min_pool_size is 2", "min_pool_size=0")
			l := startLoad(t, pooler, loadOptions{mode: pgx.QueryExecModeExec, clients: 5})
			l.awaitMore(t, 0, 20)
			must(t, m.Pause, r)
			cutOff := func() int { return strings.Count(pooler.Log(), "pause mode") }
			before := cutOff()
			eventually(t, "a connection is opened and cut off", func() bool { return cutOff() > before })
			must(t, m.Switch, r)
			eventually(t, "every client waits", func() bool { return waiting(t, pooler) == 5 })
			began := time.Now()
			must(t, m.Resume, r)
			l.awaitMore(t, 1, 20)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("clients had their first answers after %v", took)
			}
			l.mustNotHaveFailed(t)
			c := admin(t, pooler)
			defer c.close()
			settings, err := c.showConfig(t.Context())
			if err != nil || settings[retryParameter] != "15" {
				t.Errorf("%s is %s afterwards, %v", retryParameter, settings[retryParameter], err)
			}
		})
	}
}

// TestNewClientsBetweenSwitchAndResume: however long that takes, none of them is refused or delayed
// [pgbouncer#498].
func TestNewClientsBetweenSwitchAndResume(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	for _, version := range versions {
		t.Run(versionName(version), func(t *testing.T) {
			t.Parallel()
			pooler := p.pooler(t, version, cluster.PoolerOptions{})
			m, r := mover(t, pooler), p.route()
			mustCheck(t, m, r)
			old := startLoad(t, pooler, loadOptions{mode: pgx.QueryExecModeExec, clients: 5})
			old.awaitMore(t, 0, 50)
			must(t, m.Pause, r)
			logged := len(pooler.Log())
			must(t, m.Switch, r)
			fresh := startLoad(t, pooler, loadOptions{mode: pgx.QueryExecModeExec, clients: 5, storm: 5})
			eventually(t, "old and new clients wait", func() bool { return waiting(t, pooler) == 15 })
			began := time.Now()
			must(t, m.Resume, r)
			fresh.awaitMore(t, 1, 50)
			old.awaitMore(t, 1, 50)
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("50 answers took %v", took)
			}
			if strings.Contains(pooler.Log()[logged:], "pause mode") {
				t.Error("a connection to the server was opened during the pause")
			}
			fresh.mustNotHaveFailed(t)
			old.mustNotHaveFailed(t)
		})
	}
}
