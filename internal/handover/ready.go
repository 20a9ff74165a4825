package handover

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
)

// ready refuses, with all reasons, unless the handover can be expected to fit
// its budget. It makes nobody wait and ends with a forecast.
func (r *run) ready(ctx context.Context) error {
	refused := &refusal.Refusal{What: "handover"}
	say := func(why, remedy string) {
		refused.Reasons = append(refused.Reasons, refusal.Reason{Why: why, Remedy: remedy})
	}
	forecast := event.Forecast{MaxPauseMS: event.MS(r.MaxPause)}

	if err := r.readyStreams(ctx, say); err != nil {
		return err
	}
	diff, err := replication.Streams(ctx, r.holder, r.taker, r.Holder.Version(), r.Taker.Version(), r.Groups)
	if err != nil {
		return postgres.Wrap(r.Holder.Side, "comparing the tables of both sides", err)
	}
	for _, d := range diff {
		say(d, "a table that was there at start: make its definition the same on both sides; one that came later: drop it until after the switchover, or pgbaton reset and start again")
	}
	if err := r.readyTransactions(ctx, say, &forecast); err != nil {
		return err
	}
	if len(refused.Reasons) > 0 {
		return refused
	}
	// Only a marker's way through the stream shows that the taker applies.
	for _, g := range r.Groups {
		took, behind, seen, err := r.roundTrip(ctx, g)
		if err == nil && !seen {
			say(fmt.Sprintf("group %d is behind: a marker did not arrive on the %s within %s", g.Number, r.Taker.Side, r.MaxPause),
				"wait until pgbaton status shows a small lag, or allow a longer --max-pause")
			continue
		}
		if err != nil {
			return err
		}
		forecast.LagBytes = max(forecast.LagBytes, behind)
		forecast.RoundTripMS = max(forecast.RoundTripMS, event.MS(took))
	}
	if len(refused.Reasons) > 0 {
		return refused
	}
	r.Observe(forecast)
	return nil
}

// readyStreams looks at each group's slot, subscription and worker.
func (r *run) readyStreams(ctx context.Context, say func(why, remedy string)) error {
	for _, g := range r.Groups {
		slot, err := replication.ReadSlot(ctx, r.holder, r.Holder.Version(), g.Name())
		if err != nil {
			return postgres.Wrap(r.Holder.Side, "reading the slot", err)
		}
		switch {
		case slot == nil:
			say(fmt.Sprintf("replication slot %s does not exist on the %s", g.Name(), r.Holder.Side),
				"what was written since it was lost is not on the other side: pgbaton reset, then start again")
			continue
		case slot.Lost:
			say(fmt.Sprintf("replication slot %s is lost: the %s has removed WAL it needs", g.Name(), r.Holder.Side),
				"pgbaton reset, raise max_slot_wal_keep_size, and start again")
			continue
		}
		sub, err := replication.ReadSubscription(ctx, r.taker, g.Name())
		if err != nil {
			return postgres.Wrap(r.Taker.Side, "reading the subscription", err)
		}
		switch {
		case sub == nil:
			say(fmt.Sprintf("subscription %s does not exist on the %s", g.Name(), r.Taker.Side), "pgbaton start completes an unfinished start")
		case !sub.Enabled:
			say(fmt.Sprintf("subscription %s is disabled", g.Name()), "pgbaton resume")
		case !slot.Active:
			// A worker that restarts is absent for up to wal_retrieve_retry_interval.
			waitCtx, cancel := context.WithTimeout(ctx, min(r.MaxPause, 6*time.Second))
			active := r.waitActive(waitCtx, g)
			cancel()
			if !active {
				say(fmt.Sprintf("subscription %s is enabled but nobody reads its slot: the apply worker does not run", g.Name()),
					"pgbaton status shows why; the log of the "+string(r.Taker.Side)+" has the server's message")
			}
		}
	}
	return nil
}

func (r *run) waitActive(ctx context.Context, g replication.Group) bool {
	for {
		slot, err := replication.ReadSlot(ctx, r.holder, r.Holder.Version(), g.Name())
		if err != nil || slot == nil {
			return false
		}
		if slot.Active {
			return true
		}
		if postgres.Pause(ctx, 50*time.Millisecond) != nil {
			return false
		}
	}
}

// readyTransactions looks for what the fence would have to wait for: prepared
// transactions, and old transactions in other databases of the holder's
// cluster, for which the leak check's slot waits. Those in this database are
// ended by the fence.
func (r *run) readyTransactions(ctx context.Context, say func(why, remedy string), f *event.Forecast) error {
	prepared, err := fence.Prepared(ctx, r.holder)
	if err != nil {
		return postgres.Wrap(r.Holder.Side, "looking for prepared transactions", err)
	}
	for _, p := range prepared {
		say("prepared transaction "+p+" could be committed after the fence", "COMMIT PREPARED or ROLLBACK PREPARED it")
	}
	rows, err := r.holder.Query(ctx, `
		SELECT pg_catalog.format('pid %s, user %s, database %s, open for %s s', pid, usename, datname,
				pg_catalog.round(extract(epoch FROM pg_catalog.clock_timestamp() - xact_start)::numeric, 1)),
			backend_xid IS NOT NULL AND datname <> pg_catalog.current_database()
				AND pg_catalog.clock_timestamp() - xact_start > $1::float8 * interval '1 second'
		FROM pg_catalog.pg_stat_activity
		WHERE xact_start IS NOT NULL AND backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()
			AND pg_catalog.clock_timestamp() - xact_start > interval '1 second'
		ORDER BY xact_start`, r.MaxPause.Seconds()/2)
	if err != nil {
		return postgres.Wrap(r.Holder.Side, "looking for old transactions", err)
	}
	var who string
	var inTheWay bool
	_, err = pgx.ForEachRow(rows, []any{&who, &inTheWay}, func() error {
		f.OpenTransactions = append(f.OpenTransactions, who)
		if inTheWay {
			say("an old writing transaction in another database of the "+string(r.Holder.Side)+"'s cluster: "+who,
				"wait for it, or end it with pg_terminate_backend")
		}
		return nil
	})
	if err != nil {
		return postgres.Wrap(r.Holder.Side, "looking for old transactions", err)
	}
	err = r.holder.QueryRow(ctx, `SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
		WHERE datname = pg_catalog.current_database() AND backend_type = 'client backend'`).Scan(&f.Sessions)
	if err != nil {
		return postgres.Wrap(r.Holder.Side, "counting sessions", err)
	}
	tables, err := catalog.Tables(ctx, r.holder, r.Holder.Version())
	if err != nil {
		return postgres.Wrap(r.Holder.Side, "listing tables", err)
	}
	f.Tables = len(tables)
	r.sequences, err = catalog.Sequences(ctx, r.holder)
	f.Sequences = len(r.sequences)
	return postgres.Wrap(r.Holder.Side, "listing sequences", err)
}

// roundTrip sends a marker through a group's stream and waits for it no longer
// than the budget. behind is the WAL, in bytes, written meanwhile: at most that
// much is still to be applied.
func (r *run) roundTrip(ctx context.Context, g replication.Group) (took time.Duration, behind int64, seen bool, err error) {
	before, err := replication.Position(ctx, r.holder)
	if err != nil {
		return 0, 0, false, postgres.Wrap(r.Holder.Side, "reading the WAL position", err)
	}
	token, err := replication.WriteMarker(ctx, r.holder, g.MarkerTable(), replication.Heartbeat)
	if err != nil {
		return 0, 0, false, postgres.Wrap(r.Holder.Side, "writing a marker", err)
	}
	began := time.Now()
	if seen, err = replication.SawMarker(ctx, r.taker, g.MarkerTable(), token, r.MaxPause); err != nil {
		return 0, 0, false, postgres.Wrap(r.Taker.Side, "waiting for a marker", err)
	}
	took = time.Since(began)
	after, err := replication.Position(ctx, r.holder)
	return took, int64(after - before), seen, postgres.Wrap(r.Holder.Side, "reading the WAL position", err)
}

// prepare does all that can be done before anyone waits.
func (r *run) prepare(ctx context.Context) (err error) {
	if r.watchHolder, err = r.Holder.Connect(ctx); err != nil {
		return err
	}
	if r.watchTaker, err = r.Taker.Connect(ctx); err != nil {
		return err
	}
	// A session's first look at the catalogs is its slowest: not inside the pause.
	if _, err := r.compareTables(ctx); err != nil {
		return err
	}
	onTaker, err := catalog.Sequences(ctx, r.taker)
	if err != nil {
		return postgres.Wrap(r.Taker.Side, "listing sequences", err)
	}
	have := map[postgres.Ident]bool{}
	for _, s := range onTaker {
		have[s.Ident] = true
	}
	for _, s := range r.sequences {
		if !have[s.Ident] {
			return postgres.WrapHint(r.Taker.Side, "comparing sequences", fmt.Errorf("sequence %s does not exist here", s.Ident),
				"create it as it is on the "+string(r.Holder.Side))
		}
	}
	r.attempt, err = journal.RaiseAttempt(ctx, r.holder)
	return postgres.Wrap(r.Holder.Side, "beginning the handover", err)
}
