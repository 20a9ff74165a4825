package preflight

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"pgbaton/internal/catalog"
	"pgbaton/internal/postgres"
)

// This file looks for settings of the target that make a load take longer than it
// has to. They are hints: whoever may change them for the time of a load gains,
// everybody else loads all the same. What does not pay, or not always, is not
// here. fsync and full_page_writes are worth more than the time they take.
// wal_compression trades bytes for processor time, of which a load is short. How
// many processes build an index, and whether commits wait, our sessions decide for
// themselves. Autovacuum finds little to do in tables that were loaded frozen and
// analyzed, and gives way to an index build.

const (
	kB = 1 << 10
	mB = 1 << 20
	gB = 1 << 30
)

// What is smaller is loaded before settings matter, or before a restart pays.
const (
	worthReload  = 1 * gB
	worthRestart = 10 * gB
)

// load is what will be written.
type load struct {
	tables, indexes int64 // bytes
	biggestIndex    int64
}

func (l load) bytes() int64 { return l.tables + l.indexes }

// readLoad measures what the source has.
func readLoad(ctx context.Context, source *end) (l load, err error) {
	oids := make([]uint32, len(source.tables))
	for i, t := range source.tables {
		oids[i] = t.OID
		l.tables += t.Bytes
	}
	err = source.conn.QueryRow(ctx, `
		SELECT coalesce(pg_catalog.sum(bytes), 0)::bigint, coalesce(pg_catalog.max(bytes), 0)
		FROM (SELECT pg_catalog.pg_relation_size(indexrelid) AS bytes FROM pg_catalog.pg_index
			WHERE indisvalid AND indrelid = ANY ($1)) AS i`, oids).Scan(&l.indexes, &l.biggestIndex)
	return l, err
}

// knobsSQL reads settings as people write them, and those of memory and size in
// bytes. Where a value stands, few roles may see.
const knobsSQL = `
SELECT name, setting, pg_catalog.current_setting(name),
	CASE WHEN unit IN ('B', 'kB', '8kB', 'MB') THEN pg_catalog.pg_size_bytes(pg_catalog.current_setting(name)) ELSE 0 END,
	coalesce(sourcefile LIKE '%postgresql.auto.conf', false)
FROM pg_catalog.pg_settings
WHERE name IN ('archive_mode', 'checkpoint_completion_target', 'checkpoint_timeout', 'maintenance_work_mem',
	'max_wal_senders', 'max_wal_size', 'shared_buffers', 'summarize_wal', 'synchronous_standby_names', 'wal_level')`

// knob is one setting of the target.
type knob struct {
	name, setting, shown string
	bytes                int64
	auto                 bool // set by ALTER SYSTEM
}

type knobs map[string]knob

func readKnobs(ctx context.Context, q catalog.Querier) (knobs, error) {
	rows, err := q.Query(ctx, knobsSQL)
	if err != nil {
		return nil, err
	}
	all := knobs{}
	var k knob
	_, err = pgx.ForEachRow(rows, []any{&k.name, &k.setting, &k.shown, &k.bytes, &k.auto}, func() error {
		all[k.name] = k
		return nil
	})
	return all, err
}

// set and restore are the statements that change a setting, and that bring back
// what was: RESET would take away what somebody else had given to ALTER SYSTEM.
func (k knob) set(value string) string { return "ALTER SYSTEM SET " + k.name + " = " + value }

func (k knob) restore() string {
	if k.auto {
		return k.set(postgres.QuoteLiteral(k.shown))
	}
	return "ALTER SYSTEM RESET " + k.name
}

// tip is a setting to change while the load runs.
type tip struct {
	knob
	value string // as SQL
	why   string // after the setting and its value
}

func (t tip) String() string { return fmt.Sprintf("%s = %s: %s", t.name, t.shown, t.why) }

func checkLoadSettings(ctx context.Context, s *survey, e *end) error {
	if !s.fresh(e) {
		return nil
	}
	l, err := readLoad(ctx, s.source)
	if err != nil || l.bytes() < worthReload {
		return err
	}
	all, err := readKnobs(ctx, e.conn)
	if err != nil {
		return err
	}
	if tips := s.tips(l, all); len(tips) > 0 {
		e.add(tipsFinding(e.Side, l, tips))
	}
	s.judgeBuffers(e, all["shared_buffers"])
	return s.judgeMinimal(ctx, e, l, all)
}

// tipsFinding tells all that a reload changes at once, so that it can be run, and
// taken back, as one script.
func tipsFinding(side postgres.Side, l load, tips []tip) Finding {
	f := Finding{Code: "load-settings", Severity: Info, Side: side,
		Text: fmt.Sprintf("the load of %s would be faster with %s changed for its time", size(l.bytes()), plural(len(tips), "setting"))}
	var set, restore []string
	for _, t := range tips {
		f.Objects = append(f.Objects, t.String())
		set, restore = append(set, t.set(t.value)), append(restore, "-- "+t.restore()+";")
	}
	set = append(set, "SELECT pg_catalog.pg_reload_conf()",
		"-- no restart needed (managed services: the parameter group); when start has said that all is loaded:")
	f.Remedy = statements(append(append(set, restore...), "-- SELECT pg_catalog.pg_reload_conf();")...)
	return f
}

// tips are the settings that take effect with a reload.
func (s *survey) tips(l load, all knobs) (tips []tip) {
	wal := l.bytes()
	if all["wal_level"].setting == "minimal" { // tables and indexes made in the same transaction are not logged
		wal = 0
	}
	add := func(name, value, why string, args ...any) {
		tips = append(tips, tip{all[name], value, fmt.Sprintf(why, args...)})
	}
	var spread float64 // of a checkpoint's writes over the time between two
	fmt.Sscan(all["checkpoint_completion_target"].setting, &spread)
	// A checkpoint begins early enough to end before max_wal_size is reached.
	checkpoints := func(most int64) int { return int(float64(wal) * (1 + spread) / float64(most)) }
	if most, better := all["max_wal_size"].bytes, powerOf2(wal/4, 4*gB, 64*gB); most > 0 && 2*most <= better && checkpoints(most) >= 5 {
		add("max_wal_size", quoted(better),
			"the load writes about %s of WAL, which forces about %d checkpoints; each makes the load wait for the disk, and pages that change again go into the WAL whole. With %s they are about %d; pg_wal may grow to that size, and recovery after a crash takes longer",
			size(wal), checkpoints(most), size(better), checkpoints(better))
	}
	var seconds int
	fmt.Sscan(all["checkpoint_timeout"].setting, &seconds)
	if seconds < 15*60 && wal >= 32*gB {
		add("checkpoint_timeout", "'30min'", "a load of this size takes longer than that, and is held up by a checkpoint each time")
	}
	have, each := s.buildMemory(all)
	if better := powerOf2(l.biggestIndex, 256*mB, gB); have < 256*mB && l.biggestIndex >= 256*mB {
		add("maintenance_work_mem", quoted(better), "the biggest index has %s, and is sorted on disk in many small parts; with %s these are fewer, which saves some per cent of the time that indexes take. %s up to that much memory", size(l.biggestIndex), size(better), each)
	}
	if k := all["synchronous_standby_names"]; k.setting != "" {
		add(k.name, "''", "rows are committed without waiting for a standby, but what pgbaton notes of them is not, so that a standby that lags or is away stops the load. Bring it back before the switchover")
	}
	return tips
}

// buildMemory is what a session that builds an index can take, and who takes it.
// Method stream gives its own a part of what shared_buffers has.
func (s *survey) buildMemory(all knobs) (bytes int64, each string) {
	own := all["maintenance_work_mem"].bytes
	builders := max(1, s.Jobs)
	if s.Method == Stream && s.IndexJobs > 0 {
		builders = s.IndexJobs
	}
	each = "The session that builds indexes may take"
	if builders > 1 {
		each = fmt.Sprintf("Each of %d sessions that build indexes may take", builders)
	}
	if s.Method != Stream {
		return own, each
	}
	return max(own, min(gB, all["shared_buffers"].bytes/int64(builders))), each
}

// judgeBuffers says when the server was never given memory. How much the machine
// has, a server does not tell.
func (s *survey) judgeBuffers(e *end, buffers knob) {
	const initdb = 128 * mB
	if buffers.bytes > initdb {
		return
	}
	gain := "foreign keys are checked, and changes applied, from the disk or the system's cache instead"
	if s.Method == Stream {
		gain = "pgbaton takes its measure from it for the memory of index builds, and " + gain
	}
	e.add(Finding{Code: "load-settings-restart", Severity: Info, Side: e.Side,
		Text: fmt.Sprintf("shared_buffers = %s, no more than initdb gives every server: %s", buffers.shown, gain),
		Remedy: "-- a quarter of the machine's memory is usual, for the load and ever after; of 16 GB that is\n" +
			alterSystem("shared_buffers", "'4GB'")})
}

// judgeMinimal hints at a load that writes no WAL, where nothing on the target
// needs any: no archive, no standby, no slot. The server can be restarted twice,
// or it would not stand here to be loaded.
func (s *survey) judgeMinimal(ctx context.Context, e *end, l load, all knobs) error {
	on := func(name string) bool { k, ok := all[name]; return ok && k.setting != "off" }
	if s.Method == Native || l.bytes() < worthRestart || all["wal_level"].setting == "minimal" || on("archive_mode") || on("summarize_wal") {
		return nil
	}
	var slots, senders int
	if err := e.conn.QueryRow(ctx, publisherUse, s.mine()).Scan(&slots, &senders); err != nil || slots+senders > 0 {
		return err
	}
	level, count := all["wal_level"], all["max_wal_senders"]
	e.add(Finding{Code: "load-wal-level", Severity: Info, Side: e.Side,
		Text: fmt.Sprintf("wal_level = %s: with minimal the %s would be loaded with little WAL, about a tenth faster; that takes two restarts of the target, and is no way for a server that others use", level.shown, size(l.bytes())),
		Remedy: statements(level.set("'minimal'"), count.set("0"),
			"-- needs a restart of the server; start then wants --accept wal-level. When it has loaded all, before ready and switchover:",
			"-- "+restoreTo(level, "logical")+";", "-- "+count.restore()+";", "-- and restart it once more")})
	return nil
}

// restoreTo brings a setting back, unless that would not be the value needed.
func restoreTo(k knob, value string) string {
	if k.setting == value {
		return k.restore()
	}
	return k.set(postgres.QuoteLiteral(value))
}

// powerOf2 rounds up to a power of two within bounds, which are such.
func powerOf2(n, least, most int64) int64 {
	for p := least; p < most; p *= 2 {
		if p >= n {
			return p
		}
	}
	return most
}

// quoted prints a size as a setting's value.
func quoted(bytes int64) string { return "'" + strings.ReplaceAll(size(bytes), " ", "") + "'" }

// size prints bytes to people, and to the server without the space: whole units.
func size(bytes int64) string {
	switch {
	case bytes >= 10*gB || bytes >= gB && bytes%gB == 0:
		return fmt.Sprintf("%d GB", (bytes+gB/2)/gB)
	case bytes >= mB:
		return fmt.Sprintf("%d MB", bytes/mB)
	}
	return fmt.Sprintf("%d kB", bytes/kB)
}
