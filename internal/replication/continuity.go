package replication

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/journal"
	"pgbaton/internal/postgres"
)

// This file keeps track of whether a stream has a gap (rule 17). A marker that
// arrives proves that the stream flows. That nothing was left out before it is known
// by two things, kept in the publisher's journal: where the slot stood when our
// apply worker was last known not to run, and a marker that was written behind that
// position. A slot that was moved meanwhile, or dropped and made again, stands
// further on, and the marker never arrives.

// slotEntries are what a publisher knows of its slots.
var slotEntries = journal.Many[slotMemory](journal.Slot)

// slotMemory is what is known of a slot.
type slotMemory struct {
	Timeline  string `json:"timeline"`            // on which it was made, in hexadecimal: a promoted standby has another
	Confirmed string `json:"confirmed,omitempty"` // where it stood when nothing of ours read it; "" while it is read
	Marker    string `json:"marker,omitempty"`    // the token of a marker behind that position
	Published string `json:"published,omitempty"` // the publication, and what it publishes
	Newest    int64  `json:"newest,omitempty"`    // the OID of its newest entry
	Suspect   string `json:"suspect,omitempty"`   // why the stream has, or may have, a gap

	Subscription uint32 `json:"subscription,omitempty"` // the OID of the one that was let read from it
}

// LeaveSlot remembers where a slot stands whose subscription is disabled, its workers
// gone, and writes a marker behind it. A WAL sender that has not noticed yet is ended:
// what it still has in hand would move the slot.
func LeaveSlot(ctx context.Context, publisher *postgres.Session, g Group) error {
	slot, err := waitInactive(ctx, publisher, g.Name())
	if err != nil || slot == nil {
		return err
	}
	if slot.Active {
		return LeaveMarker(ctx, publisher, g)
	}
	return postgres.Durably(ctx, publisher, func(tx pgx.Tx) error {
		return leave(ctx, tx, leaveSQL, g, slot.Confirmed)
	})
}

// LeaveNewSlot notes, in the same way, where a slot stands that was just made: it is
// a new one, whatever was known of its name.
func LeaveNewSlot(ctx context.Context, db postgres.DB, g Group, point postgres.LSN) error {
	return leave(ctx, db, leaveNewSQL, g, point)
}

// LeaveMarker is what can be done for a slot whose subscription may be enabled, and so
// may move it any moment: a marker alone, behind what is not read yet. There is one
// until it has arrived.
func LeaveMarker(ctx context.Context, publisher postgres.DB, g Group) error {
	noted := slotEntries.UpdateSQL(`value || pg_catalog.jsonb_build_object('marker', $2::text)`, `NOT value ? 'marker'`)
	_, err := publisher.Exec(ctx, fmt.Sprintf(`WITH noted AS (%s RETURNING key)
		INSERT INTO %s SELECT $2, '%s', pg_catalog.clock_timestamp() FROM noted`, noted, g.MarkerTable(), Heartbeat), g.Name(), rand.Text())
	return err
}

// leaveSQL writes the marker and remembers it with the position and the timeline,
// with which the name of a WAL file begins
// (https://www.postgresql.org/docs/current/continuous-archiving.html). Of a slot that
// was left before, the first position counts, and what it was made on, or found out,
// stays.
var leaveSQL = "WITH " + leftMarker + slotEntries.UpsertSQL(leftAt, `excluded.value || j.value
WHERE NOT j.value ? 'confirmed'`)

// leaveNewSQL is for a new slot: markers written before it was made never arrive.
var leaveNewSQL = "WITH old AS (DELETE FROM %[1]s), " + leftMarker + slotEntries.UpsertSQL(leftAt, "excluded.value")

const (
	leftMarker = `marker AS (INSERT INTO %[1]s VALUES ($2, '` + Heartbeat + `', pg_catalog.clock_timestamp())) `
	leftAt     = `pg_catalog.jsonb_build_object('timeline', ` + timelineSQL + `, 'confirmed', $3::text, 'marker', $2::text,
	'published', ` + publishedSQL + `, 'newest', ` + newestSQL + `)`
)

// publishedSQL tells publication $1 from any other, and whether it publishes all kinds
// of changes.
const publishedSQL = `(SELECT pg_catalog.concat_ws('/', p.oid, p.pubinsert, p.pubupdate, p.pubdelete, pg_catalog.to_jsonb(p) ->> 'pubtruncate')
	FROM pg_catalog.pg_publication p WHERE p.pubname = $1::text)`

// newestSQL is the OID of its newest entry. A table that was taken out and put in again
// has a newer one: what was written in between is not decoded. One that was taken out,
// or dropped, is missed by whoever compares the tables.
const newestSQL = `(SELECT coalesce(max(r.oid::bigint), 0) FROM pg_catalog.pg_publication_rel r
	JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid WHERE p.pubname = $1::text)`

const timelineSQL = `pg_catalog."left"(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8)`

func leave(ctx context.Context, db postgres.DB, sql string, g Group, at postgres.LSN) error {
	_, err := db.Exec(ctx, fmt.Sprintf(sql, g.MarkerTable()), g.Name(), rand.Text(), at.String())
	return err
}

// ForgetSlot forgets what was known of a slot that is dropped.
func ForgetSlot(ctx context.Context, publisher postgres.DB, g Group) error {
	return slotEntries.Delete(ctx, publisher, g.Name())
}

// ReadSlotMemories reads what is remembered of every slot.
func ReadSlotMemories(ctx context.Context, publisher postgres.DB) error {
	_, err := slotEntries.List(ctx, publisher)
	return err
}

// inactiveTimeout bounds the wait for a walsender whose worker has gone: it notices
// when it next sends or reads.
const inactiveTimeout = 5 * time.Second

// waitInactive waits until nobody reads a slot, for at most 5 s, and returns its
// state; nil when there is none. Half that time is for whoever reads it to end by
// itself.
func waitInactive(ctx context.Context, publisher postgres.DB, name string) (*SlotState, error) {
	ended := false
	for began := time.Now(); ; {
		slot, err := ReadSlot(ctx, publisher, name)
		if err != nil || slot == nil || !slot.Active || time.Since(began) > inactiveTimeout {
			return slot, err
		}
		if !ended && time.Since(began) > inactiveTimeout/2 {
			ended = true
			_, err := publisher.Exec(ctx, `SELECT pg_catalog.pg_terminate_backend(active_pid) FROM pg_catalog.pg_replication_slots
				WHERE slot_name = $1 AND active_pid = $2`, name, slot.ActivePID)
			if err != nil && postgres.Code(err) != postgres.InsufficientPrivilege { // then it goes by itself, later
				return nil, err
			}
		}
		if err := postgres.Pause(ctx, 5*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// Gap says what is to be feared of a group's stream, and why: "" when nothing is. What it
// finds out is remembered: a stream stays suspect. A subscriber that is out of reach is nil.
func Gap(ctx context.Context, publisher, subscriber *postgres.Session, g Group) (string, error) {
	m, at, err := recall(ctx, publisher, g)
	if err != nil || at == nil || m.Suspect != "" {
		return m.Suspect, err
	}
	slot, err := ReadSlot(ctx, publisher, g.Name())
	if err != nil || slot == nil {
		return "", err // that it is gone is said elsewhere
	}
	var now string
	if err := publisher.QueryRow(ctx, "SELECT "+timelineSQL).Scan(&now); err != nil {
		return "", err
	}
	if now != m.Timeline && !slot.Synced {
		return leftOut(ctx, publisher, g, fmt.Sprintf("the server was promoted, or restored, since slot %s was made (timeline %s, then %s): its slots may be others", g.Name(), now, m.Timeline))
	}
	if m.Published != "" {
		var published string
		var newest int64
		if err := publisher.QueryRow(ctx, "SELECT coalesce("+publishedSQL+", ''), "+newestSQL, g.Name()).Scan(&published, &newest); err != nil {
			return "", err
		}
		if published != "" && (published != m.Published || newest > m.Newest) { // that it is gone is said elsewhere
			return leftOut(ctx, publisher, g, fmt.Sprintf("somebody changed publication %s: what was written to a table while it was not in there is missing", g.Name()))
		}
	}
	if subscriber == nil {
		return "", nil
	}
	sub, err := ReadSubscription(ctx, subscriber, g.Name())
	if err != nil {
		return "", err
	}
	if m.Subscription != 0 && (sub == nil || sub.OID != m.Subscription) {
		return suspect(ctx, publisher, g, fmt.Sprintf("changes would be applied twice on the %s: somebody dropped subscription %s, and one that is made in its place does not know how far that had applied", g.subscriber(), g.Name()))
	}
	if m.Confirmed == "" || sub != nil && sub.Enabled {
		return "", nil // it flows, or tries to: its markers tell
	}
	if other, err := reader(ctx, publisher, slot, *at); err != nil || other != "" {
		if err == nil {
			other, err = leftOut(ctx, publisher, g, fmt.Sprintf("slot %s is read by somebody else: %s", g.Name(), other))
		}
		return other, err
	}
	left, err := postgres.ParseLSN(m.Confirmed)
	if err != nil {
		return "", err
	}
	if slot.Confirmed <= left { // behind it after a crash: what follows is sent again, and skipped
		return "", nil
	}
	// Somebody may have let our own worker on in between.
	own, err := SawMarker(ctx, subscriber, g.MarkerTable(), m.Marker, 0)
	if err == nil && !own && sub != nil {
		var applied postgres.LSN
		applied, own, err = AppliedUpTo(ctx, subscriber, sub.OID)
		own = own && applied >= slot.Confirmed
	}
	if err != nil || own {
		return "", errors.Join(err, isRead(ctx, publisher, g))
	}
	return leftOut(ctx, publisher, g, fmt.Sprintf("slot %s was left at %s and stands at %s: somebody else read from it, moved it, or dropped it and made it again", g.Name(), left, slot.Confirmed))
}

// reader describes who reads a slot, if that began after the slot was left.
func reader(ctx context.Context, publisher *postgres.Session, slot *SlotState, left time.Time) (who string, err error) {
	if !slot.Active {
		return "", nil
	}
	err = publisher.QueryRow(ctx, `
		SELECT pg_catalog.format('pid %s, user %s, %L, from %s, since %s', pid, usename, application_name,
			coalesce(client_addr::text, 'its own host'), pg_catalog.date_trunc('second', backend_start))
		FROM pg_catalog.pg_stat_activity WHERE pid = $1 AND backend_start > $2`, slot.ActivePID, left).Scan(&who)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return who, err
}

// RememberPublished notes that pgbaton itself has changed a group's publication.
func RememberPublished(ctx context.Context, publisher postgres.DB, g Group) error {
	_, err := publisher.Exec(ctx, slotEntries.UpdateSQL(`value || pg_catalog.jsonb_build_object('published', `+publishedSQL+`, 'newest', `+newestSQL+`)`, "true"), g.Name())
	return err
}

// WasRead says whether a subscription was ever let read from the slot of a name.
func WasRead(ctx context.Context, publisher postgres.DB, name string) (bool, error) {
	m, _, err := slotEntries.Get(ctx, publisher, name)
	return m.Subscription != 0, err
}

// leftOut marks a stream as one that may have left something out.
func leftOut(ctx context.Context, publisher *postgres.Session, g Group, why string) (string, error) {
	return suspect(ctx, publisher, g, g.incomplete(why))
}

func (g Group) incomplete(why string) string {
	return fmt.Sprintf("changes may be missing on the %s: %s", g.subscriber(), why)
}

// subscriber is the side that a group's changes flow to.
func (g Group) subscriber() postgres.Side {
	if g.Direction == Reverse {
		return postgres.Source
	}
	return postgres.Target
}

// suspect marks a stream as one that is not to be trusted.
func suspect(ctx context.Context, publisher *postgres.Session, g Group, why string) (string, error) {
	_, err := publisher.Exec(ctx, slotEntries.UpdateSQL(`value || pg_catalog.jsonb_build_object('suspect', $2::text)`, "true"), g.Name(), why)
	return why, err
}

// Suspect reads what Gap has found, without looking.
func Suspect(ctx context.Context, publisher postgres.DB, g Group) (string, error) {
	m, _, err := recall(ctx, publisher, g)
	return m.Suspect, err
}

// recall reads what is known of a group's slot, and since when; nil when nothing is. What
// is damaged there can vouch for nothing: the stream is suspect.
func recall(ctx context.Context, publisher postgres.DB, g Group) (m slotMemory, at *time.Time, err error) {
	m, at, err = slotEntries.At(ctx, publisher, g.Name())
	if damaged := (*journal.Damaged)(nil); errors.As(err, &damaged) {
		return slotMemory{Suspect: g.incomplete(damaged.Error())}, at, nil
	}
	return m, at, err
}

// Trip is a marker on its way through a group's stream.
type Trip struct {
	Group Group
	Token string

	before []string // the tokens of all markers that were committed before it
}

// SendMarker writes a marker, and notes which ones it must not arrive without.
func SendMarker(ctx context.Context, publisher *postgres.Session, g Group) (*Trip, error) {
	t := &Trip{Group: g}
	var err error
	if t.before, err = tokens(ctx, publisher, g.MarkerTable()); err == nil {
		t.Token, err = WriteMarker(ctx, publisher, g.MarkerTable(), Heartbeat)
	}
	return t, err
}

// Arrived waits for the marker, no longer than within. When it has arrived, all that
// were committed before it must have: gap says which has not, and the stream is
// suspect from now on. Of a stream without a gap the markers that were waited for
// are removed, and what was known of its slot's rest is forgotten.
func (t *Trip) Arrived(ctx context.Context, publisher, subscriber *postgres.Session, within time.Duration) (seen bool, gap string, err error) {
	table := t.Group.MarkerTable()
	if seen, err = SawMarker(ctx, subscriber, table, t.Token, within); err != nil || !seen {
		return seen, "", err
	}
	there, err := tokens(ctx, subscriber, table)
	if err != nil {
		return true, "", err
	}
	arrived := map[string]bool{}
	for _, token := range there {
		arrived[token] = true
	}
	var missing []string
	for _, token := range t.before {
		if !arrived[token] {
			missing = append(missing, token)
		}
	}
	if len(missing) > 0 {
		// Another status may have removed it meanwhile, and the removal have arrived.
		var left int
		var since time.Time
		err := publisher.QueryRow(ctx, fmt.Sprintf(`SELECT pg_catalog.count(*), coalesce(min(written_at), 'epoch') FROM %s WHERE token = ANY ($1)`, table), missing).Scan(&left, &since)
		if err != nil {
			return true, "", err
		}
		if left > 0 {
			gap, err = leftOut(ctx, publisher, t.Group, fmt.Sprintf("a marker written at %s, and what was committed around then, never arrived, although later ones did",
				since.UTC().Format(time.RFC3339)))
			return true, gap, err
		}
	}
	if gap, err = Suspect(ctx, publisher, t.Group); err != nil || gap != "" {
		return true, gap, err
	}
	return true, "", t.settle(ctx, publisher)
}

// LetOn lets a group's stream run. Before, that its slot rests is forgotten; the marker
// that was left behind it stays, and must arrive. And it is noted which subscription it
// is that reads from the slot: how far that has applied is known to it alone
// (https://www.postgresql.org/docs/current/replication-origins.html).
func LetOn(ctx context.Context, publisher, subscriber *postgres.Session, g Group) error {
	sub, err := ReadSubscription(ctx, subscriber, g.Name())
	if err != nil {
		return err
	}
	err = postgres.Durably(ctx, publisher, func(tx pgx.Tx) error {
		if err := isRead(ctx, tx, g); err != nil || sub == nil {
			return err
		}
		_, err := tx.Exec(ctx, readBySQL, g.Name(), int64(sub.OID))
		return err
	})
	if err != nil {
		return err
	}
	return SetEnabled(ctx, subscriber, g.Name(), true)
}

// isRead forgets where a slot stood that our worker has read from since, or is about
// to.
func isRead(ctx context.Context, publisher postgres.DB, g Group) error {
	_, err := publisher.Exec(ctx, isReadSQL, g.Name())
	return err
}

// settle remembers that the slot is read, and removes heartbeats older than the one
// that arrived. The deletion follows through the stream.
func (t *Trip) settle(ctx context.Context, publisher *postgres.Session) error {
	if err := isRead(ctx, publisher, t.Group); err != nil || len(t.before) == 0 {
		return err
	}
	_, err := publisher.Exec(ctx, oldMarkersSQL(t.Group), t.before, Heartbeat)
	return err
}

func oldMarkersSQL(g Group) string {
	return fmt.Sprintf(`DELETE FROM %s WHERE kind = $2 AND token = ANY ($1)`, g.MarkerTable())
}

// The statements of LetOn.
var (
	isReadSQL = slotEntries.UpdateSQL(`value - 'confirmed' - 'marker'`, `value ?| ARRAY['confirmed', 'marker']`)
	readBySQL = slotEntries.UpdateSQL(`value || pg_catalog.jsonb_build_object('subscription', $2::bigint)`, `NOT value ? 'subscription'`)
)

func tokens(ctx context.Context, db postgres.DB, table postgres.Ident) ([]string, error) {
	rows, err := db.Query(ctx, fmt.Sprintf("SELECT token FROM %s", table))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
