package traffic

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgbaton/internal/cluster"
	"pgbaton/internal/pgtest"
)

func TestRepoint(t *testing.T) {
	t.Parallel()
	there := destination{host: "db2", port: 6543, database: "shop"}
	for _, test := range []struct {
		entry string
		to    destination
		want  string
	}{
		{"host=db1 port=5432", there, "host=db2 port=6543"},
		{"host=db1", there, "host=db2 port=6543"},
		{"", there, "host=db2 port=6543"},
		{"pool_size=5", there, "pool_size=5 host=db2 port=6543"},
		{"host=db1 port=5433 dbname=old", there, "host=db2 port=6543 dbname=shop"},
		{"host=db1   port = 5432  user='u x'", there, "host=db2   port = 6543  user='u x'"},
		{"host='db1' port='5432' connect_query='select ''host=x''' pool_size=3", there, "host=db2 port=6543 connect_query='select ''host=x''' pool_size=3"},
		{"host=a host=b port=1 port=2", there, "host=a host=db2 port=1 port=6543"},
		{"host=db2 port=6543", there, "host=db2 port=6543"},
		{"port=6543 host=db2 dbname=shop", there, "port=6543 host=db2 dbname=shop"},
		{"host=db1", destination{host: "db1", port: 5432, database: "o'ther one"}, "host=db1 dbname='o''ther one'"},
		{"host=db1", destination{host: "/run/my sockets", port: 5432, database: "shop"}, "host='/run/my sockets'"},
		{"host=db1", destination{host: "::1", port: 5432, database: "Läden"}, "host=::1 dbname='Läden'"},
		{"host='db1'x port='1',dbname=y", there, "host='db2'x port='6543',dbname=shop"},
		{"host=db1 dbname='it''s'", destination{host: "db1", port: 5432, database: "shop"}, "host=db1 dbname=shop"},
	} {
		got, err := repoint("shop", test.entry, test.to)
		if err != nil || got != test.want {
			t.Errorf("%q to %v: %q, %v; want %q", test.entry, test.to, got, err, test.want)
		}
		if d, err := leadsTo("shop", got); err != nil || d != test.to {
			t.Errorf("%q leads to %v, %v", got, d, err)
		}
	}
	for _, bad := range []string{"host", "=x", "host=", "host='x", "host=''", "host=x port=y"} {
		if got, err := repoint("shop", bad, there); err == nil {
			t.Errorf("%q became %q", bad, got)
		}
	}
	for _, to := range []destination{{port: 1, database: "x"}, {host: "x", port: 1}, {host: "x\ny", port: 1, database: "x"}} {
		if got, err := repoint("shop", "host=x", to); err == nil {
			t.Errorf("%v was written: %q", to, got)
		}
	}
}

// iniMaker makes configurations of every form that PgBouncer reads.
type iniMaker struct {
	*rand.Rand
	quoted bool // names in quotes: from 1.25 on
	nl     string
}

func (g *iniMaker) of(choices ...string) string { return choices[g.IntN(len(choices))] }

func (g *iniMaker) entry(name string) string {
	pairs := []string{}
	for _, pair := range []string{
		"host" + g.of("=", " = ", "= ") + g.of("db1", "'db 1'", "/run/x", "'/run/it''s'", "10.0.0.1", "db1,db2"),
		"port=" + g.of("5432", "'6000'", "1"),
		"dbname" + g.of("=", " =  ") + g.of("old", "'old one'", "'it''s'", "Läden"),
		"pool_size=" + g.of("3", "'4'"),
		"connect_query='select ''host=y port=1'''",
		"client_encoding=utf8",
		"pool_mode=session",
	} {
		for range g.IntN(3) * g.IntN(2) {
			pairs = append(pairs, pair)
		}
	}
	g.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
	if g.quoted && (g.IntN(3) == 0 || strings.ContainsAny(name, " \"ä")) {
		name = "'" + name + "'"
	}
	return g.of("", " ", "\t") + name + g.of("=", " = ", "\t=\t") + strings.Join(pairs, g.of(" ", "   ")) + g.of("", "  ", " \t")
}

func (g *iniMaker) databases(names []string, lines int) string {
	var b strings.Builder
	for range lines {
		switch g.IntN(6) {
		case 0:
			b.WriteString(g.of("; shop = host=comment", "# don't", "", "  ;  'x", ";[users]") + g.nl)
		default:
			b.WriteString(g.entry(g.of(names...)) + g.nl)
		}
	}
	return b.String()
}

// TestIniAsPgBouncerReadsIt makes hundreds of configurations, and compares what we read in them with
// what PgBouncer does, before and after an entry was rewritten, and every other byte.
func TestIniAsPgBouncerReadsIt(t *testing.T) {
	t.Parallel()
	for _, version := range versions {
		t.Run(versionName(version), func(t *testing.T) {
			t.Parallel()
			pooler := pgtest.StartPooler(t, version, cluster.PoolerOptions{})
			head, err := os.ReadFile(pooler.IniPath())
			if err != nil {
				t.Fatal(err)
			}
			c := admin(t, pooler)
			defer c.close()
			const seed = 7
			g := &iniMaker{Rand: rand.New(rand.NewPCG(seed, 1)), quoted: version == ""}
			names := []string{"shop", "Shop", "shop-2", "s.h_o", "0"}
			if g.quoted {
				names = append(names, "my shop", `"q"`, "Läden")
			}
			// Numbers of processes differ, so do the files' names.
			included := filepath.Join(pooler.Dir(), "included.ini")
			nested := filepath.Join(pooler.Dir(), "nested.ini")
			for round := range 150 {
				g.nl = g.of("\n", "\n", "\r\n")
				name := g.of(names...)
				text := string(head) + g.databases(names, g.IntN(6)) + g.entry(name) + g.nl + g.databases(names, g.IntN(3))
				files := map[string]string{
					nested:   g.databases(names, g.IntN(3)) + g.of("[databases]", "[users]"+g.nl+"[databases] ") + g.databases(names, g.IntN(3)),
					included: g.databases(names, g.IntN(3)) + "%include \t" + g.of(nested, "nested.ini") + g.of("", " ") + g.nl + g.databases(names, g.IntN(2)),
				}
				if g.IntN(2) == 0 {
					text += "%include " + g.of(included, "included.ini") + g.nl + g.databases(names, g.IntN(2))
				}
				if g.IntN(3) == 0 {
					text = strings.TrimRight(text, "\r\n")
				}
				files[pooler.IniPath()] = text
				for file, text := range files {
					if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				compareWithPgBouncer(t, c, pooler, names)
				to := destination{host: g.of("db2", "/run/so ck", "'q'", "::1"), port: 1 + g.IntN(65535), database: g.of("shop", "new one", "it's", "Ö", name)}
				file, _, err := repointFile(pooler.IniPath(), pooler.Dir(), name, to)
				if err != nil {
					t.Fatalf("round %d: %v\n%s", round, err, text)
				}
				for f, was := range files {
					now, err := os.ReadFile(f)
					if err != nil {
						t.Fatal(err)
					}
					if f == file {
						sameButOneEntry(t, name, was, string(now))
					} else if string(now) != was {
						t.Errorf("round %d: %s was changed, the entry is in %s", round, f, file)
					}
				}
				if got := compareWithPgBouncer(t, c, pooler, names)[name]; got != to {
					t.Errorf("round %d: PgBouncer leads to %v, want %v", round, got, to)
				}
				if t.Failed() {
					t.Fatalf("round %d, seed %d, entry %s:\n%s", round, seed, name, text)
				}
			}
		})
	}
}

// compareWithPgBouncer makes PgBouncer read the configuration.
func compareWithPgBouncer(t *testing.T, c *console, pooler *cluster.Pooler, names []string) map[string]destination {
	t.Helper()
	ctx := within(t, 20*time.Second)
	if _, err := c.ask(ctx, "RELOAD"); err != nil {
		t.Errorf("RELOAD: %v", err)
	}
	a, err := c.ask(ctx, "SHOW DATABASES")
	if err != nil {
		t.Fatal(err)
	}
	config, err := readIni(pooler.IniPath(), pooler.Dir())
	if err != nil {
		t.Errorf("PgBouncer reads it, we do not: %v", err)
		return nil
	}
	theirs := map[string]destination{}
	for _, name := range names {
		e, err := findEntry(a, name)
		if err != nil {
			t.Fatal(err)
		}
		line, ok := config.database(name)
		if ok != (e != nil) {
			t.Errorf("entry %s: PgBouncer has it: %t; we: %t", name, e != nil, ok)
		}
		if e == nil || !ok {
			continue
		}
		theirs[name] = e.destination
		if ours, err := leadsTo(name, line.value); err != nil || ours != e.destination {
			t.Errorf("entry %s: PgBouncer leads to %v; we read %v, %v", name, e.destination, ours, err)
		}
	}
	return theirs
}

// sameButOneEntry demands that one run of bytes differs at most, inside one line.
func sameButOneEntry(t *testing.T, name, was, now string) {
	t.Helper()
	a, b := strings.Split(was, "\n"), strings.Split(now, "\n")
	if len(a) != len(b) {
		t.Errorf("%d lines became %d", len(a), len(b))
		return
	}
	changed := 0
	for i := range a {
		if a[i] == b[i] {
			continue
		}
		changed++
		setting := func(line string) (iniSetting, bool) {
			line = strings.TrimPrefix(strings.TrimPrefix(line, "[users]"), "[databases]") // may stand before it
			return splitSetting(strings.TrimLeft(strings.TrimRight(line, "\r"), " \t"))
		}
		old, ok1 := setting(a[i])
		fresh, ok2 := setting(b[i])
		keep := func(line string, s iniSetting) string { return strings.Replace(line, s.value, "", 1) }
		if !ok1 || !ok2 || old.key != name || fresh.key != name || old.value != "" && keep(a[i], old) != keep(b[i], fresh) {
			t.Errorf("line %q became %q", a[i], b[i])
		}
		if got, want := otherPairs(t, fresh.value), otherPairs(t, old.value); got != want {
			t.Errorf("other keys %q became %q", want, got)
		}
	}
	if changed > 1 {
		t.Errorf("%d lines changed", changed)
	}
}

func otherPairs(t *testing.T, entry string) (text string) {
	t.Helper()
	pairs, err := splitEntry(entry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pairs {
		if p.key != "host" && p.key != "port" && p.key != "dbname" {
			text += fmt.Sprintf("%s=%q ", p.key, p.value)
		}
	}
	return text
}

func TestIniErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	loop := filepath.Join(dir, "loop.ini")
	for text, want := range map[string]string{
		"[databases]\nshop host=x":   "line 2: neither a section nor key = value",
		"[databases\nshop = host=x":  "line 1: a section's name without ]",
		"[databases]\n\n'' = x":      "line 3: neither",
		"[databases]\nshop = h\x00x": "line 2: neither",
		"[a]\n\x00":                  "line 2: a zero byte",
		"%include x.ini":             "relative to PgBouncer's working directory",
		"%include " + loop:           "more than 10 nested",
		"%include /no/such/file.ini": "no such file",
	} {
		if err := os.WriteFile(loop, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readIni(loop, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
}

// TestReplacement: the file is replaced as a whole, by one of the same owner and mode; a symbolic link
// stays.
func TestReplacement(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real", "p.ini"), filepath.Join(dir, "p.ini")
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, "real"), 0o755),
		os.WriteFile(real, []byte("[databases]\nshop = host=a port=1\n; the end"), 0o600),
		os.Chmod(real, 0o640),
		os.Symlink(filepath.Join("real", "p.ini"), link),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 { // others can give files to nobody
		if err := os.Chown(real, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.Stat(real)
	if err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(real) // as long as it is open nobody else gets its inode number
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	stop, torn := make(chan struct{}), make(chan string, 1)
	go func() {
		defer close(torn)
		for {
			select {
			case <-stop:
				return
			default:
			}
			text, err := os.ReadFile(link)
			if err != nil || !bytes.HasSuffix(text, []byte("; the end")) || !bytes.HasPrefix(text, []byte("[databases]\n")) {
				torn <- fmt.Sprintf("%q, %v", text, err)
				return
			}
		}
	}()
	for i := range 100 {
		file, changed, err := repointFile(link, "", "shop", destination{host: "b", port: 2 + i, database: "shop"})
		if err != nil || !changed || file != link {
			t.Fatalf("%s, changed %t, %v", file, changed, err)
		}
	}
	close(stop)
	if text := <-torn; text != "" {
		t.Errorf("a reader saw %s", text)
	}
	after, err := os.Lstat(real)
	if err != nil {
		t.Fatal(err)
	}
	was, is := before.Sys().(*syscall.Stat_t), after.Sys().(*syscall.Stat_t)
	if after.Mode() != before.Mode() || was.Uid != is.Uid || was.Gid != is.Gid {
		t.Errorf("%v %d:%d became %v %d:%d", before.Mode(), was.Uid, was.Gid, after.Mode(), is.Uid, is.Gid)
	}
	if os.SameFile(before, after) {
		t.Error("the file was written in place")
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", info.Mode(), err)
	}
	// What leads there already is not touched.
	if _, changed, err := repointFile(link, "", "shop", destination{host: "b", port: 101, database: "shop"}); changed || err != nil {
		t.Errorf("changed %t, %v", changed, err)
	}
	if again, err := os.Lstat(real); err != nil || !os.SameFile(after, again) {
		t.Errorf("the file was replaced by the same: %v", err)
	}
	if err := tryReplacement(link); err != nil {
		t.Error(err)
	}
	for _, file := range []string{dir, "/dev/null", "/proc/version", filepath.Join(dir, "none")} {
		if err := tryReplacement(file); err == nil {
			t.Errorf("%s could be replaced", file)
		}
	}
	for _, d := range []string{dir, filepath.Dir(real)} {
		entries, err := os.ReadDir(d)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.Contains(e.Name(), "pgbaton") {
				t.Errorf("left behind: %s", e.Name())
			}
		}
	}
}
