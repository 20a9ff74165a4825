package handover

import (
	"context"
	"fmt"
	"strings"

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

func (p *planner) prepare(ctx context.Context) (actions []plan.Action, err error) {
	if !p.NoRollback {
		tables, err := catalog.Shapes(ctx, p.holder, p.Selection)
		if err != nil {
			return nil, p.Holder.Wrap("listing tables", err)
		}
		terms, err := replication.TermsFor(ctx, p.holder, p.Taker.Version(), p.Label, 1, false)
		if err != nil {
			return nil, p.Holder.Wrap("looking for workers that can apply", err)
		}
		actions = append(
			p.onTaker(replication.MarkerTableSQL(p.Back.MarkerTable()), replication.PublicationSQL(p.Back.Name(), replication.Publishable(tables, p.Back),
				replication.StreamsTruncate(p.Taker.Version(), p.Holder.Version()))),
			p.onHolder(append([]string{replication.MarkerTableSQL(p.Back.MarkerTable())},
				replication.SubscriptionSQL(p.Back.Name(), p.Taker.Reach.For(p.Holder.Version()).Redacted(), terms)...)...)...)
	}
	preset, err := p.sequences(ctx)
	return append(actions, preset...), err
}

func (p *planner) pause(context.Context) ([]plan.Action, error) {
	return []plan.Action{plan.Operator(traffic.Planned().Pause)}, nil
}

func (p *planner) fence(ctx context.Context) ([]plan.Action, error) {
	saved, err := fence.Read(ctx, p.holder)
	if err != nil {
		return nil, p.Holder.Wrap("reading the database's grants", err)
	}
	granted, err := fence.NeedGrant(ctx, p.holder, p.Holder.Keeps)
	if err != nil {
		return nil, p.Holder.Wrap("reading roles", err)
	}
	database := p.Holder.Database()
	return p.onHolder(append(saved.RaiseSQL(database, granted),
		fence.BarrierSQL(database)+" -- the barrier: waits for sessions that start up, then fails by design",
		"SELECT pg_terminate_backend(<every other session>)")...), nil
}

func (p *planner) drain(context.Context) ([]plan.Action, error) {
	actions := p.onHolder("SELECT pg_create_logical_replication_slot(<leak check>, 'pgoutput', true)")
	for _, g := range p.Groups {
		actions = append(actions, p.onHolder(fmt.Sprintf("INSERT INTO %s VALUES (<token>, 'drain', clock_timestamp())", g.MarkerTable()))...)
		actions = append(actions, p.onTaker(fmt.Sprintf("SELECT EXISTS (SELECT FROM %s WHERE token = <token>) -- until true", g.MarkerTable()))...)
	}
	return actions, nil
}

// sequences are set before anyone waits, and those that have moved since once more.
func (p *planner) sequences(ctx context.Context) ([]plan.Action, error) {
	sequences, err := catalog.Sequences(ctx, p.holder, p.Selection)
	var setvals []string
	for _, q := range sequences {
		setvals = append(setvals, fmt.Sprintf("SELECT setval(%s, <last_value>, <is_called>)", postgres.QuoteLiteral(q.String())))
	}
	return p.onTaker(setvals...), p.Holder.Wrap("listing sequences", err)
}

func (p *planner) wayBack(context.Context) (actions []plan.Action, err error) {
	for _, g := range p.Groups {
		actions = append(actions, p.onTaker("ALTER SUBSCRIPTION "+postgres.QuoteIdent(g.Name())+" DISABLE")...)
	}
	if !p.NoRollback {
		actions = append(actions, p.onTaker(strings.Replace(replication.CreateSlotHereSQL(p.Taker.Version()), "$1", "<"+p.Back.Name()+">", 1))...)
	}
	return append(actions, p.onTaker("-- ADD CONSTRAINT for foreign keys between groups, and for checks that call functions, that wait for all rows")...), nil
}

func (p *planner) pass(context.Context) ([]plan.Action, error) {
	return p.onHolder(journal.PassSQL), nil
}

func (p *planner) open(context.Context) ([]plan.Action, error) {
	return p.onTaker(journal.TakeSQL, "-- the grants that the fence of this side saved, and RESET default_transaction_read_only"), nil
}

func (p *planner) switchTraffic(context.Context) ([]plan.Action, error) {
	return []plan.Action{plan.Operator(traffic.Planned().Switch)}, nil
}

func (p *planner) resume(context.Context) ([]plan.Action, error) {
	return []plan.Action{plan.Operator(traffic.Planned().Resume)}, nil
}

func (p *planner) settle(ctx context.Context) (actions []plan.Action, err error) {
	if !p.NoRollback {
		triggers, err := schema.ApplyTriggers(ctx, p.holder)
		if err != nil {
			return nil, p.Holder.Wrap("listing triggers", err)
		}
		for _, t := range triggers {
			actions = append(actions, p.onHolder(t.QuietSQL())...)
		}
		actions = append(actions, p.onHolder("ALTER SUBSCRIPTION "+postgres.QuoteIdent(p.Back.Name())+" ENABLE")...)
	}
	for _, g := range p.Groups {
		name := postgres.QuoteIdent(g.Name())
		actions = append(actions, p.onTaker("ALTER SUBSCRIPTION "+name+" SET (slot_name = NONE)", "DROP SUBSCRIPTION "+name)...)
		actions = append(actions, p.onHolder(fmt.Sprintf("SELECT pg_drop_replication_slot(<%s>)", g.Name()))...)
	}
	views, err := catalog.MatViews(ctx, p.holder, p.Selection)
	for _, v := range views {
		if v.Populated {
			actions = append(actions, p.onTaker(schema.PlannedRefresh(v, v.Concurrently))...)
		}
	}
	return actions, p.Holder.Wrap("listing materialized views", err)
}
