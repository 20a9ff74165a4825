package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/postgres"
)

// rehearsedChanges bounds how much of the stream is looked at.
const rehearsedChanges = 5000

// The server writes the reason for which an apply worker fails into its log
// only. Rehearse finds it out: it peeks at the transactions behind the position
// applied, tries the same changes on the subscriber in a transaction that is rolled
// back, and returns the server's message; "" when nothing fails, or when the slot is in use at the moment.
func Rehearse(ctx context.Context, from *postgres.Server, publisher postgres.DB, subscriber *postgres.Server, group string, applied postgres.LSN) (string, error) {
	rows, err := publisher.Query(ctx, `
		SELECT data FROM pg_catalog.pg_logical_slot_peek_binary_changes($1, NULL, $3, 'proto_version', '1', 'publication_names', $2)`,
		group, postgres.QuoteIdent(group), rehearsedChanges)
	var messages [][]byte
	if err == nil {
		messages, err = pgx.CollectRows(rows, pgx.RowTo[[]byte])
	}
	if postgres.Code(err) == postgres.ObjectInUse {
		return "", nil
	}
	if err != nil {
		return "", from.Wrap("looking at what the slot holds", err)
	}
	messages = unapplied(messages, applied)
	conn, err := subscriber.Connect(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var message string
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// As the apply worker does: no ordinary trigger, no foreign key check.
		if _, err := tx.Exec(ctx, "SET LOCAL session_replication_role = replica"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '1s'"); err != nil {
			return err
		}
		message = rehearse(ctx, tx, messages)
		return errRehearsed
	})
	if errors.Is(err, errRehearsed) {
		err = nil
	}
	return message, subscriber.Wrap("trying the changes that are not applied", err)
}

// unapplied drops the changes of transactions that were applied. Relations are kept:
// they are sent once. All that were not are tried, in order: a large transaction that is
// applied while it arrives fails before those that were committed before it.
func unapplied(messages [][]byte, applied postgres.LSN) [][]byte {
	var kept [][]byte
	done := true
	for _, m := range messages {
		switch m[0] {
		case 'B': // begin: the position of the transaction's commit
			d := decoder{b: m[1:]}
			done = postgres.LSN(d.uint64()) < applied
		case 'C':
		case 'R':
			kept = append(kept, m)
		default:
			if !done {
				kept = append(kept, m)
			}
		}
	}
	return kept
}

var errRehearsed = errors.New("the rehearsal is over")

// relation is a relation message of pgoutput.
type relation struct {
	postgres.Ident
	columns []string
	key     []bool
}

// rehearse applies decoded changes until one fails and returns its message.
func rehearse(ctx context.Context, tx pgx.Tx, messages [][]byte) string {
	relations := map[uint32]relation{}
	for _, m := range messages {
		d := decoder{b: m[1:]}
		var sql, doing string
		var args []any
		switch m[0] {
		case 'R':
			oid, rel := d.relation()
			if d.ok() {
				relations[oid] = rel
			}
			continue
		case 'I':
			rel := relations[d.uint32()]
			d.byte() // 'N'
			sql, args = insertSQL(rel, d.tuple())
			doing = "INSERT into " + rel.String()
		case 'U':
			rel := relations[d.uint32()]
			var old []field
			kind := d.byte()
			if kind == 'K' || kind == 'O' {
				old = d.tuple()
				d.byte() // 'N'
			}
			sql, args = updateSQL(rel, old, d.tuple())
			doing = "UPDATE of " + rel.String()
		case 'D':
			rel := relations[d.uint32()]
			d.byte() // 'K' or 'O'
			sql, args = deleteSQL(rel, d.tuple())
			doing = "DELETE from " + rel.String()
		case 'T':
			count := d.uint32()
			d.byte()
			var names []string
			for range count {
				names = append(names, relations[d.uint32()].String())
			}
			sql, doing = "TRUNCATE "+strings.Join(names, ", "), "TRUNCATE of "+strings.Join(names, ", ")
		default:
			continue
		}
		if !d.ok() || sql == "" {
			continue
		}
		if _, err := tx.Exec(ctx, sql, append([]any{pgx.QueryExecModeSimpleProtocol}, args...)...); err != nil {
			return fmt.Sprintf("%s: %s", doing, postgres.Describe(err))
		}
	}
	return ""
}

// field is one column of a decoded row, as text; unchanged ones are not sent.
type field struct {
	kind byte // n null, u unchanged, t text
	text string
}

func (f field) arg() any {
	if f.kind == 'n' {
		return nil
	}
	return f.text
}

func insertSQL(r relation, row []field) (string, []any) {
	var names, places []string
	var args []any
	for i, f := range row {
		if i < len(r.columns) && f.kind != 'u' {
			args = append(args, f.arg())
			names, places = append(names, postgres.QuoteIdent(r.columns[i])), append(places, fmt.Sprintf("$%d", len(args)))
		}
	}
	return fmt.Sprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE VALUES (%s)", r.Ident, strings.Join(names, ", "), strings.Join(places, ", ")), args
}

func updateSQL(r relation, old, row []field) (string, []any) {
	var set []string
	var args []any
	for i, f := range row {
		if i < len(r.columns) && f.kind != 'u' {
			args = append(args, f.arg())
			set = append(set, fmt.Sprintf("%s = $%d", postgres.QuoteIdent(r.columns[i]), len(args)))
		}
	}
	if old == nil {
		old = row
	}
	where, args := keySQL(r, old, args)
	return fmt.Sprintf("UPDATE ONLY %s SET %s WHERE %s", r.Ident, strings.Join(set, ", "), where), args
}

func deleteSQL(r relation, old []field) (string, []any) {
	where, args := keySQL(r, old, nil)
	return fmt.Sprintf("DELETE FROM ONLY %s WHERE %s", r.Ident, where), args
}

func keySQL(r relation, row []field, args []any) (string, []any) {
	where := []string{"true"}
	for i, f := range row {
		if i >= len(r.columns) || !r.key[i] || f.kind == 'u' {
			continue
		}
		if f.kind == 'n' {
			where = append(where, postgres.QuoteIdent(r.columns[i])+" IS NULL")
			continue
		}
		args = append(args, f.arg())
		where = append(where, fmt.Sprintf("%s = $%d", postgres.QuoteIdent(r.columns[i]), len(args)))
	}
	return strings.Join(where, " AND "), args
}

// decoder reads a pgoutput message
// (https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html).
type decoder struct {
	b     []byte
	short bool
}

func (d *decoder) ok() bool { return !d.short }

func (d *decoder) take(n int) []byte {
	if n < 0 || len(d.b) < n {
		d.short = true
		d.b = nil
		return make([]byte, 8) // enough for any number
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) byte() byte {
	return d.take(1)[0]
}

func (d *decoder) uint16() int    { return int(binary.BigEndian.Uint16(d.take(2))) }
func (d *decoder) uint32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }

func (d *decoder) uint64() uint64 { return binary.BigEndian.Uint64(d.take(8)) }

func (d *decoder) string() string {
	i := strings.IndexByte(string(d.b), 0)
	if i < 0 {
		d.short = true
		return ""
	}
	s := string(d.take(i))
	d.take(1)
	return s
}

func (d *decoder) relation() (uint32, relation) {
	oid := d.uint32()
	r := relation{Ident: postgres.Ident{Schema: d.string(), Name: d.string()}}
	d.byte() // replica identity
	for range d.uint16() {
		flags := d.byte()
		r.columns, r.key = append(r.columns, d.string()), append(r.key, flags&1 == 1)
		d.take(8) // type and modifier
		if d.short {
			break
		}
	}
	return oid, r
}

func (d *decoder) tuple() []field {
	var row []field
	for range d.uint16() {
		f := field{kind: d.byte()}
		if f.kind == 't' {
			f.text = string(d.take(int(d.uint32())))
		}
		if d.short {
			break
		}
		row = append(row, f)
	}
	return row
}
