package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/event"
	"pgbaton/internal/journal"
	"pgbaton/internal/plan"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
	"pgbaton/internal/schema"
)

// This file has the steps after the load: statistics, materialized views, the
// subscription, and catching up.

func (st *start) planAnalyze(ctx context.Context) ([]plan.Action, error) {
	views, err := catalog.MatViews(ctx, st.SourceConn, st.Selection)
	if err != nil {
		return nil, st.Source.Wrap("listing materialized views", err)
	}
	_, add, err := schema.PlanChecks(ctx, st.SourceConn)
	if err != nil {
		return nil, st.Source.Wrap("listing constraints", err)
	}
	sql, err := st.analyzeSQL(ctx, st.SourceConn)
	actions := plan.On(postgres.Target, append(add, sql...)...)
	for _, v := range views {
		if v.Populated {
			actions = append(actions, plan.On(postgres.Target, schema.PlannedRefresh(v, false))...)
		}
	}
	return actions, st.Source.Wrap("listing tables", err)
}

// doneAnalyze: with --hold the native copy has not even begun.
func (st *start) doneAnalyze(ctx context.Context) (bool, error) {
	if st.Method == Native && st.Hold {
		return true, nil
	}
	if st.targetRecord == nil {
		return false, nil
	}
	_, ok, err := analyzedEntry.Get(ctx, st.TargetConn)
	return ok, st.Target.Wrap("reading the journal", err)
}

func (st *start) runAnalyze(ctx context.Context) error {
	if err := st.addChecks(ctx); err != nil {
		return err
	}
	views, err := catalog.MatViews(ctx, st.SourceConn, st.Selection)
	if err != nil {
		return st.Source.Wrap("listing materialized views", err)
	}
	if err := st.analyze(ctx); err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, st.TargetConn, func(tx pgx.Tx) error { return schema.Enlist(ctx, tx, views) })
	if err != nil {
		return st.Target.Wrap("noting the materialized views", err)
	}
	if err := refresh(ctx, st.Config, st.Sessions); err != nil {
		return err
	}
	st.refreshed = true
	return st.Target.Wrap("writing the journal",
		analyzedEntry.Put(ctx, st.TargetConn, time.Now().UTC().Format(time.RFC3339)))
}

// terms are those of so many forward streams.
func (st *start) terms(ctx context.Context, streams int) (replication.Terms, error) {
	conn := st.TargetConn
	if conn == nil { // a plan, whose target database does not exist yet
		conn = st.maintenance
	}
	t, err := replication.TermsFor(ctx, conn, st.Source.Version(), st.label, streams, st.Method == Native)
	return t, st.Target.Wrap("looking for workers that can apply", err)
}

func (st *start) planSubscription(ctx context.Context) ([]plan.Action, error) {
	terms, err := st.terms(ctx, len(st.divided))
	if err == nil && st.Target.Version().Major() >= 19 && !terms.Server {
		// What the target's wrapper will be comes with the schema.
		terms.Server, err = schema.HasExtension(ctx, st.SourceConn, "postgres_fdw")
		err = st.Source.Wrap("looking for an extension", err)
	}
	if err != nil {
		return nil, err
	}
	var actions []plan.Action
	for i := range st.divided {
		actions = append(actions, plan.On(postgres.Target, replication.SubscriptionSQL(st.forward(i+1).Name(), st.SourceFromTarget.For(st.Target.Version()).Redacted(), terms)...)...)
	}
	return actions, nil
}

// streams are the forward groups that a start has made.
func (st *start) streams(ctx context.Context) ([]replication.Group, error) {
	numbers, err := replication.GroupNumbers(ctx, st.SourceConn, st.TargetConn, st.Group())
	groups := make([]replication.Group, len(numbers))
	for i, n := range numbers {
		groups[i] = st.forward(n)
	}
	return groups, err
}

func (st *start) doneSubscription(ctx context.Context) (bool, error) {
	if st.targetRecord == nil {
		return false, nil
	}
	groups, err := st.streams(ctx)
	if err != nil {
		return false, err
	}
	for _, g := range groups {
		sub, err := replication.ReadSubscription(ctx, st.TargetConn, g.Name())
		if err != nil || sub == nil {
			return false, st.Target.Wrap("looking for the subscription", err)
		}
	}
	return len(groups) > 0, nil
}

func (st *start) runSubscription(ctx context.Context) error {
	groups, err := st.streams(ctx)
	if err != nil {
		return err
	}
	if err := st.whole(ctx, st.Sessions, journal.Baton{Side: postgres.Source}, groups, "start"); err != nil {
		return err // no second one in the place of one that was dropped
	}
	terms, err := st.terms(ctx, len(groups))
	if err != nil {
		return err
	}
	for _, g := range groups {
		sub, err := replication.ReadSubscription(ctx, st.TargetConn, g.Name())
		if err == nil && sub == nil {
			err = st.subscribe(ctx, g, terms)
		}
		if err != nil {
			return st.Target.Wrap("creating subscription "+g.Name(), err)
		}
	}
	return nil
}

// subscribe creates a group's subscription connected and disabled, and checks that
// it holds exactly the planned tables before anything enables it (rule 12).
func (st *start) subscribe(ctx context.Context, g replication.Group, terms replication.Terms) error {
	err := replication.CreateSubscription(ctx, st.TargetConn, g.Name(), st.SourceFromTarget.For(st.Target.Version()), terms)
	if err != nil {
		_, hint := replication.SubscribeFailure(postgres.Target, st.Target.Version(), err)
		return st.Target.WrapHint("creating the subscription", err, hint)
	}
	state := "r"
	if st.Method == Native {
		state = "i"
	}
	if err = replication.VerifySubscription(ctx, st.SourceConn, st.TargetConn, g.Name(), state); err != nil {
		// One that leads elsewhere, above all, must not stay for a later run to enable.
		_, dropErr := replication.DropSubscription(context.WithoutCancel(ctx), st.TargetConn, g.Name())
		err = errors.Join(err, dropErr)
	}
	return st.Target.WrapHint("checking the subscription", err,
		"--source-from-target must lead to the very database that is given as --source; run start again")
}

// planSync shows the native copy: the servers do it by themselves once the
// subscription is enabled.
func (st *start) planSync(context.Context) ([]plan.Action, error) {
	return plan.On(postgres.Target, "ALTER SUBSCRIPTION "+postgres.QuoteIdent(st.Group().Name())+" ENABLE"), nil
}

// doneSync: with --hold nothing is copied until `pgbaton resume`.
func (st *start) doneSync(ctx context.Context) (bool, error) {
	if st.Hold {
		return true, nil
	}
	if st.targetRecord == nil {
		return false, nil
	}
	p, err := nativeProgress(ctx, st.SourceConn, st.TargetConn, st.Group(), st.Selection)
	return err == nil && p.TablesTotal > 0 && p.TablesCopied == p.TablesTotal, err
}

// runSync waits while the subscription copies, and says how far it is. It fails
// when the servers' workers keep failing.
func (st *start) runSync(ctx context.Context) error {
	if err := st.whole(ctx, st.Sessions, journal.Baton{Side: postgres.Source}, []replication.Group{st.Group()}, "start"); err != nil {
		return err
	}
	if err := replication.LetOn(ctx, st.SourceConn, st.TargetConn, st.Group()); err != nil {
		return st.Target.Wrap("enabling the subscription", err)
	}
	began := time.Now()
	watch := stuck{}
	for {
		p, err := nativeProgress(ctx, st.SourceConn, st.TargetConn, st.Group(), st.Selection)
		if err != nil {
			return err
		}
		if s := event.Since(began); s > 0 && p.BytesCopied > 0 {
			p.BytesPerSec = float64(p.BytesCopied) / s
			p.ETASeconds = float64(max(0, p.BytesTotal-p.BytesCopied)) / p.BytesPerSec
		}
		st.Observe(p)
		if p.TablesCopied == p.TablesTotal {
			st.result.TablesCopied, st.result.BytesCopied, st.result.BytesPerSec = p.TablesCopied, p.BytesCopied, p.BytesPerSec
			return nil
		}
		if trouble, err := watch.look(ctx, st.Config, st.Sessions, p.BytesCopied+int64(p.TablesCopied)); err != nil || trouble != nil {
			if err == nil {
				err = trouble
			}
			return err
		}
		// On an idle source table after table would wait for the next keepalive
		// before it counts as synchronized: a marker now and then moves it on.
		if _, err := replication.WriteMarker(ctx, st.SourceConn, st.Group().MarkerTable(), replication.Heartbeat); err != nil {
			return st.Source.Wrap("writing a marker", err)
		}
		if err := postgres.Pause(ctx, 250*time.Millisecond); err != nil {
			return err
		}
	}
}

func (st *start) planCatchUp(context.Context) ([]plan.Action, error) {
	if st.Hold {
		return nil, nil
	}
	var actions []plan.Action
	for i := range st.divided {
		actions = append(actions, plan.On(postgres.Target, "ALTER SUBSCRIPTION "+postgres.QuoteIdent(st.forward(i+1).Name())+" ENABLE")...)
	}
	return actions, nil
}

// doneCatchUp is never true in advance: only a marker's way through the stream
// shows that the target is up to date. With --hold there is nothing to wait for.
func (st *start) doneCatchUp(ctx context.Context) (bool, error) {
	if st.Hold {
		st.result.Phase = PhaseHeld
		sub, err := replication.ReadSubscription(ctx, st.TargetConn, st.Group().Name())
		if err == nil && sub != nil && sub.Enabled {
			st.result.Phase = PhaseStreaming
		}
		return true, st.Target.Wrap("reading the subscription", err)
	}
	return false, nil
}

// runCatchUp enables the subscriptions and waits for a marker to come through each.
func (st *start) runCatchUp(ctx context.Context) error {
	groups, err := st.streams(ctx)
	if err != nil {
		return err
	}
	if err := st.whole(ctx, st.Sessions, journal.Baton{Side: postgres.Source}, groups, "start"); err != nil {
		return err
	}
	for _, g := range groups {
		if err := replication.LetOn(ctx, st.SourceConn, st.TargetConn, g); err != nil {
			return st.Target.Wrap("enabling subscription "+g.Name(), err)
		}
	}
	for _, g := range groups {
		if err := st.catchUp(ctx, g); err != nil {
			return err
		}
	}
	st.result.Phase = PhaseStreaming
	return nil
}

func (st *start) catchUp(ctx context.Context, g replication.Group) error {
	trip, err := replication.SendMarker(ctx, st.SourceConn, g)
	if err != nil {
		return st.Source.Wrap("writing a marker", err)
	}
	began := time.Now()
	watch := stuck{}
	for {
		seen, gap, err := trip.Arrived(ctx, st.SourceConn, st.TargetConn, time.Second)
		if err == nil && gap != "" {
			return refusal.New("start", gap, lostRemedy(journal.Baton{Side: postgres.Source}))
		}
		if err != nil || seen {
			return st.Target.Wrap("waiting for a marker", err)
		}
		slot, err := replication.ReadSlot(ctx, st.SourceConn, g.Name())
		if err != nil {
			return st.Source.Wrap("reading the slot", err)
		}
		behind := int64(0)
		if slot != nil {
			behind = slot.BehindBytes
		}
		st.Observe(event.Waiting{For: fmt.Sprintf("the target to apply %d bytes of WAL", behind), Side: postgres.Target, Seconds: event.Since(began)})
		trouble, err := watch.look(ctx, st.Config, st.Sessions, -behind)
		if err != nil {
			return err
		}
		if trouble != nil {
			return trouble
		}
	}
}
