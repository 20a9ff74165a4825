package migrate

import (
	"context"
	"fmt"
	"time"

	"pgbaton/internal/catalog"
	"pgbaton/internal/fence"
	"pgbaton/internal/handover"
	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
	"pgbaton/internal/refusal"
	"pgbaton/internal/replication"
	"pgbaton/internal/schema"
	"pgbaton/internal/traffic"
)

// Switchover hands the baton from the source to the target, or completes an
// earlier switchover that died. The sessions must be connected and locked.
func Switchover(ctx context.Context, c Config, s *Sessions, hooks traffic.Hooks, maxPause time.Duration) (handover.Result, error) {
	source, target, err := s.records(ctx, c)
	if err != nil {
		return handover.Result{}, err
	}
	if source == nil || target == nil {
		return handover.Result{}, refusal.New("switchover", "there is no migration between these databases", "pgbaton start")
	}
	h := handover.Config{
		Migration: c.Name, Holder: c.Source, Taker: c.Target,
		Groups:      []replication.Group{c.Group()},
		HolderKeeps: c.holderKeeps(postgres.Source),
		MaxPause:    maxPause, Traffic: hooks, Observe: c.Observe,
	}
	return handover.Run(ctx, h, s.SourceConn, s.TargetConn)
}

// SetRunning is `pgbaton pause` and `pgbaton resume`: it disables or enables the
// subscription, unless its subscriber holds the baton (rule 14).
func SetRunning(ctx context.Context, c Config, s *Sessions, run bool) error {
	command := "pause"
	if run {
		command = "resume"
	}
	source, target, err := s.records(ctx, c)
	if err != nil {
		return err
	}
	b, _ := journal.Decide(source, target)
	if b.Side == postgres.Target {
		return refusal.New(command, "the target holds the baton: nothing may flow into it any more", "")
	}
	sub, err := replication.ReadSubscription(ctx, s.TargetConn, c.Group().Name())
	if err != nil {
		return postgres.Wrap(postgres.Target, "reading the subscription", err)
	}
	if target == nil || sub == nil {
		return refusal.New(command, "there is no subscription yet", "pgbaton start")
	}
	var l loaded
	if ok, err := journal.Get(ctx, s.TargetConn, kindCopy, keyLoaded, &l); err != nil || !ok {
		if err != nil {
			return postgres.Wrap(postgres.Target, "reading the journal", err)
		}
		return refusal.New(command, "the copy is not complete", "pgbaton start, run again, continues it")
	}
	slot, err := replication.ReadSlot(ctx, s.SourceConn, c.Source.Version(), l.Slot)
	if err != nil {
		return postgres.Wrap(postgres.Source, "reading the slot", err)
	}
	if run && (slot == nil || slot.Lost) {
		return refusal.New(command, fmt.Sprintf("replication slot %s is lost or gone from the source: what was written since then cannot reach the target", l.Slot),
			"pgbaton reset, then start again")
	}
	return postgres.Wrap(postgres.Target, command, replication.SetEnabled(ctx, s.TargetConn, c.Group().Name(), run))
}

// PlanSwitchover lists what a handover to the target would run, phase by phase.
// Values that only the handover knows stand in angle brackets.
func PlanSwitchover(ctx context.Context, c Config, s *Sessions) ([]PlannedStep, error) {
	saved, err := fence.Read(ctx, s.SourceConn)
	if err != nil {
		return nil, postgres.Wrap(postgres.Source, "reading the database's grants", err)
	}
	sequences, err := catalog.Sequences(ctx, s.SourceConn)
	if err != nil {
		return nil, postgres.Wrap(postgres.Source, "listing sequences", err)
	}
	views, err := catalog.MatViews(ctx, s.SourceConn)
	if err != nil {
		return nil, postgres.Wrap(postgres.Source, "listing materialized views", err)
	}
	name, marker := postgres.QuoteIdent(c.Group().Name()), c.Group().MarkerTable()
	database := c.Source.Database()
	operator := func(do string) Action { return Action{Where: "operator", Do: do} }
	var setvals, refreshes []string
	for _, q := range sequences {
		setvals = append(setvals, fmt.Sprintf("SELECT setval(%s, <last_value>, <is_called>)", postgres.QuoteLiteral(q.String())))
	}
	for _, v := range views {
		if v.Populated {
			refreshes = append(refreshes, schema.RefreshSQL(v, v.Concurrently))
		}
	}
	granted, err := fence.NeedGrant(ctx, s.SourceConn, c.holderKeeps(postgres.Source))
	if err != nil {
		return nil, postgres.Wrap(postgres.Source, "reading roles", err)
	}
	fenceSQL := append(saved.RaiseSQL(database, granted),
		fence.BarrierSQL(database)+" -- the barrier: waits for sessions that start up, then fails by design",
		"SELECT pg_terminate_backend(<every other session>)",
		"SELECT pg_create_logical_replication_slot(<leak check>, 'pgoutput', true)")
	settle := on(postgres.Target, "DROP SUBSCRIPTION "+name)
	settle = append(settle, on(postgres.Source, fmt.Sprintf("SELECT pg_drop_replication_slot(<%s>)", c.Group().Name()))...)
	settle = append(settle, on(postgres.Target, refreshes...)...)
	return []PlannedStep{
		{Step: handover.PhasePause, Actions: []Action{operator("<--on-pause>")}},
		{Step: handover.PhaseFence, Actions: on(postgres.Source, fenceSQL...)},
		{Step: handover.PhaseDrain, Actions: append(
			on(postgres.Source, fmt.Sprintf("INSERT INTO %s VALUES (<token>, 'drain', clock_timestamp())", marker)),
			on(postgres.Target, fmt.Sprintf("SELECT EXISTS (SELECT FROM %s WHERE token = <token>) -- until true", marker))...)},
		{Step: handover.PhaseSequences, Actions: on(postgres.Target, setvals...)},
		{Step: handover.PhaseWayBack, Actions: on(postgres.Target, "ALTER SUBSCRIPTION "+name+" DISABLE")},
		{Step: handover.PhasePass, Actions: on(postgres.Source, journal.PassSQL)},
		{Step: handover.PhaseOpen, Actions: on(postgres.Target, journal.TakeSQL, "-- the grants that the target's fence saved, and RESET default_transaction_read_only")},
		{Step: handover.PhaseSwitch, Actions: []Action{operator("<--on-switch>")}},
		{Step: handover.PhaseResume, Actions: []Action{operator("<--on-resume>")}},
		{Step: handover.PhaseSettle, Actions: settle},
	}, nil
}
