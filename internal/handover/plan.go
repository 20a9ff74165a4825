package handover

import (
	"context"
	"fmt"

	"pgbaton/internal/catalog"
	"pgbaton/internal/fence"
	"pgbaton/internal/journal"
	"pgbaton/internal/plan"
	"pgbaton/internal/postgres"
	"pgbaton/internal/replication"
	"pgbaton/internal/schema"
	"pgbaton/internal/traffic"
)

// This file has what each phase of a handover would do, for pgbaton plan. Values that
// only the handover knows stand in angle brackets.

// planner is a handover that is only planned. The taker's database need not be there:
// what is to be known of the tables is read from the holder.
type planner struct {
	Config
	holder *postgres.Session
}

// Plan lists what a handover would do, phase by phase.
func Plan(ctx context.Context, c Config, holder *postgres.Session) (steps []plan.Step, err error) {
	p := &planner{c, holder}
	for _, row := range table {
		if row.plan == nil {
			continue
		}
		actions, err := row.plan(p, ctx)
		if err != nil {
			return nil, err
		}
		steps = append(steps, plan.Step{Step: row.name, Actions: actions})
	}
	return steps, nil
}

func (p *planner) onHolder(statements ...string) []plan.Action {
	return plan.On(p.Holder.Side, statements...)
}

func (p *planner) onTaker(statements ...string) []plan.Action {
	return plan.On(p.Taker.Side, statements...)
}

// ready tries what may be refused later, and sends a marker through each stream.
func (p *planner) ready(ctx context.Context) ([]plan.Action, error) {
	actions, err := p.tryFence(ctx)
	if err != nil {
		return nil, err
	}
	actions = append(actions, p.onTaker(fence.PlanRehearseLift())...)
	actions = append(actions, p.onTaker(postgres.PlanBeacon()...)...)
	for _, s := range postgres.PlanBeacon() {
		actions = append(actions, p.onHolder(s+" -- if what stands before it is as it should be")...)
	}
	for _, g := range p.Groups {
		actions = append(actions, p.onHolder(replication.PlanTrip(g)...)...)
	}
	return actions, nil
}

func (p *planner) tryFence(ctx context.Context) ([]plan.Action, error) {
	saved, granted, err := p.grants(ctx)
	return p.onHolder(saved.PlanRehearse(p.Holder.Database(), granted)...), err
}

func (p *planner) grants(ctx context.Context) (saved fence.Saved, granted []string, err error) {
	if saved, err = fence.Read(ctx, p.holder); err != nil {
		return saved, nil, p.Holder.Wrap("reading the database's grants", err)
	}
	granted, err = fence.NeedGrant(ctx, p.holder, p.Holder.Keeps)
	return saved, granted, p.Holder.Wrap("reading roles", err)
}

// prepare makes the way back as far as it can be made, tries what the pause will do, and
// sets the sequences.
func (p *planner) prepare(ctx context.Context) ([]plan.Action, error) {
	actions := p.onHolder(journal.PlanRaise(), journal.PlanClear(journal.Guardian), journal.PlanClear(journal.Arrived), streamEntry.PlanPut())
	back, err := p.prepareBack(ctx)
	if err != nil {
		return nil, err
	}
	actions = append(actions, back...)
	actions = append(actions, p.onTaker(viewsEntry.PlanPut())...)
	tried, err := p.tryFence(ctx)
	if err != nil {
		return nil, err
	}
	actions = append(actions, tried...)
	leak := postgres.ClusterName(p.Label, "leak")
	actions = append(actions, p.onHolder(append(fence.PlanTryLeakCheck(leak, true), p.planPass()+" -- of an attempt that is none")...)...)
	if !p.NoRollback {
		actions = append(actions, p.onTaker(append(fence.PlanTryLeakCheck(leak, false), replication.PlanLeaveNewSlot(p.Back)+" -- rolled back")...)...)
	}
	actions = append(actions, p.onTaker(drainedEntry.PlanPut()+" -- rolled back", fence.PlanRehearseLift())...)
	preset, err := p.sequences(ctx)
	actions = append(actions, preset...)
	return append(actions, p.onHolder(pausedEntry.PlanPut())...), err
}

// prepareBack begins with what an earlier attempt may have left.
func (p *planner) prepareBack(ctx context.Context) ([]plan.Action, error) {
	actions := p.onTaker(replication.PlanDropSlot(p.Back.Name())...)
	if p.NoRollback {
		return actions, nil
	}
	tables, err := catalog.Shapes(ctx, p.holder, p.Selection)
	if err != nil {
		return nil, p.Holder.Wrap("listing tables", err)
	}
	terms, err := replication.TermsFor(ctx, p.holder, p.Taker.Version(), p.Label, 1, false)
	if err != nil {
		return nil, p.Holder.Wrap("looking for workers that can apply", err)
	}
	actions = append(actions, p.onHolder(replication.MarkerTableSQL(p.Back.MarkerTable()))...)
	actions = append(actions, p.onTaker(replication.MarkerTableSQL(p.Back.MarkerTable()),
		replication.PublicationSQL(p.Back.Name(), replication.Publishable(tables, p.Back), replication.StreamsTruncate(p.Taker.Version(), p.Holder.Version())))...)
	return append(actions, p.onHolder(replication.SubscriptionSQL(p.Back.Name(), p.Taker.Reach.For(p.Holder.Version()).Redacted(), terms)...)...), nil
}

func (p *planner) pause(context.Context) ([]plan.Action, error) {
	return []plan.Action{plan.Operator(traffic.Planned().Pause)}, nil
}

func (p *planner) fence(ctx context.Context) ([]plan.Action, error) {
	saved, granted, err := p.grants(ctx)
	if err != nil {
		return nil, err
	}
	database := p.Holder.Database()
	return p.onHolder(append(saved.PlanRaise(database, granted),
		fence.BarrierSQL(database)+" -- the barrier: waits for sessions that start up, then fails by design", fence.PlanEvict())...), nil
}

func (p *planner) drain(context.Context) ([]plan.Action, error) {
	actions := p.onHolder(fence.PlanOpenLeakCheck(postgres.ClusterName(p.Label, "leak")))
	for _, g := range p.Groups {
		actions = append(actions, p.onHolder(replication.PlanMarker(g, replication.Drain))...)
		actions = append(actions, p.onTaker(fmt.Sprintf("SELECT EXISTS (SELECT FROM %s WHERE token = <token>) -- until true", g.MarkerTable()))...)
	}
	return actions, nil
}

// sequences are set before anyone waits, and those that have moved since once more.
func (p *planner) sequences(context.Context) ([]plan.Action, error) {
	return p.onTaker(replication.PlanSetSequences()), nil
}

// wayBack ends the streams and makes the slot of the way back.
func (p *planner) wayBack(context.Context) (actions []plan.Action, err error) {
	for _, g := range p.Groups {
		actions = append(actions, p.onTaker(replication.PlanDisable(g.Name())...)...)
	}
	if !p.NoRollback {
		actions = append(actions, p.onTaker(plan.Fill(replication.CreateSlotHereSQL(p.Taker.Version()), postgres.QuoteLiteral(p.Back.Name())),
			replication.PlanLeaveNewSlot(p.Back))...)
	}
	return append(actions, p.onTaker("ALTER TABLE <each constraint that waits for all rows> -- if there is any", drainedEntry.PlanPut())...), nil
}

func (p *planner) planPass() string { return plan.Fill(journal.PassSQL, "<generation>", "<attempt>") }

func (p *planner) pass(context.Context) ([]plan.Action, error) {
	return p.onHolder(fence.PlanLeaks(postgres.ClusterName(p.Label, "leak")), p.planPass()), nil
}

func (p *planner) open(context.Context) ([]plan.Action, error) {
	return p.onTaker(append([]string{plan.Fill(journal.TakeSQL, "<generation>"), pausedEntry.PlanDelete(), trafficEntry.PlanPut(),
		"ALTER EVENT TRIGGER <each that fires for applications> -- if there is any"}, fence.PlanLift()...)...), nil
}

func (p *planner) switchTraffic(context.Context) ([]plan.Action, error) {
	return []plan.Action{plan.Operator(traffic.Planned().Switch)}, nil
}

func (p *planner) resume(context.Context) ([]plan.Action, error) {
	actions := []plan.Action{plan.Operator(traffic.Planned().Resume)}
	actions = append(actions, p.onTaker(arrivalEntry.PlanReplaced(journal.Traffic))...)
	return append(actions, p.onTaker(append(postgres.PlanBeacon(), arrivalEntry.PlanDelete())...)...), nil
}

// settle opens the way back and tidies up.
func (p *planner) settle(ctx context.Context) (actions []plan.Action, err error) {
	triggers, err := schema.ApplyTriggers(ctx, p.holder)
	if err != nil {
		return nil, p.Holder.Wrap("listing triggers", err)
	}
	if !p.NoRollback {
		actions = append(actions, p.onHolder(schema.PlanQuiet(triggers)...)...)
		publisher, subscriber := replication.PlanLetOn(p.Back)
		actions = append(actions, p.onTaker(publisher...)...)
		actions = append(actions, p.onHolder(subscriber...)...)
		actions = append(actions, p.onTaker(replication.PlanTrip(p.Back)...)...)
	}
	actions = append(actions, p.onHolder(pausedEntry.PlanDelete(), streamEntry.PlanDelete(), fence.PlanCloseLeakCheck(postgres.ClusterName(p.Label, "leak")))...)
	for _, g := range p.Groups {
		actions = append(actions, p.onTaker(replication.PlanDropSubscription(g.Name())...)...)
		actions = append(actions, p.onHolder(append(replication.PlanDropSlot(g.Name()), replication.PlanForgetSlot(g))...)...)
		if g.Number > 1 {
			actions = append(actions, p.onHolder(replication.DropPublicationSQL(g.Name()))...)
		}
	}
	views, err := catalog.MatViews(ctx, p.holder, p.Selection)
	actions = append(actions, p.onTaker("ALTER TABLE <each constraint that was added> -- if there is any", journal.PlanClear(journal.Check))...)
	actions = append(actions, p.onTaker(schema.PlanRestore(triggers)...)...)
	actions = append(actions, p.onTaker(append(schema.PlanRefresh(views), viewsEntry.PlanDelete(), resultEntries.PlanPut("<when it began>"))...)...)
	return append(actions, p.onHolder(journal.PlanClear(journal.ViewDue))...), p.Holder.Wrap("listing materialized views", err)
}
