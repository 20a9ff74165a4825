package handover

import (
	"bytes"
	"context"

	"pgbaton/internal/event"
	"pgbaton/internal/schema"
)

// configRows are the rows that an extension keeps for the user in a table of its own,
// as the taker has been given them.
type configRows struct {
	schema.Config
	rows []byte
	now  []byte // of the holder, behind the fence
}

// presetConfigs gives the taker what the holder's extensions keep for the user, before
// anyone waits: behind the fence only what has changed since is given again.
func (r *run) presetConfigs(ctx context.Context) error {
	configs, left, err := schema.ReadConfigs(ctx, r.holderSide.watch, r.taker)
	if err != nil {
		return r.Holder.Wrap("listing the tables of extensions", err)
	}
	for _, text := range left {
		r.Observe(event.Warning{Side: r.Holder.Side, Text: text, Remedy: "move them by hand, or by the extension's own means"})
	}
	r.configs = nil
	for _, c := range configs {
		rows, err := c.Read(ctx, r.holderSide.watch)
		if err != nil {
			return r.Holder.Wrap("reading the rows of extensions", err)
		}
		if err := r.writeConfig(ctx, c, rows); err != nil {
			return err
		}
		r.configs = append(r.configs, configRows{Config: c, rows: rows})
	}
	return nil
}

// readConfigs reads the rows once more, behind the fence.
func (r *run) readConfigs(ctx context.Context) (err error) {
	for i := range r.configs {
		c := &r.configs[i]
		if c.now, err = c.Read(ctx, r.holderSide.watch); err != nil {
			return err
		}
	}
	return nil
}

// setConfigs gives the taker those that have changed.
func (r *run) setConfigs(ctx context.Context) error {
	for _, c := range r.configs {
		if bytes.Equal(c.now, c.rows) {
			continue
		}
		if err := r.writeConfig(ctx, c.Config, c.now); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) writeConfig(ctx context.Context, c schema.Config, rows []byte) error {
	unheard, err := c.Write(ctx, r.taker, rows)
	if unheard != nil {
		r.Observe(event.Warning{Side: r.Taker.Side, Text: c.Unheard(unheard), Remedy: schema.UnheardRemedy})
	}
	return r.Taker.Wrap("writing the rows of extensions", err)
}
