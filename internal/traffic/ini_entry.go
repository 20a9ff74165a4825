package traffic

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// destination is where an entry of [databases] leads.
type destination struct {
	host     string // empty: PgBouncer's default Unix socket
	port     int
	database string
}

func (d destination) String() string {
	host := d.host
	if host == "" {
		host = "the default Unix socket"
	}
	return fmt.Sprintf("host %s, port %d, database %s", host, d.port, quoteName(d.database))
}

// entry is a line of [databases] by which a name leads there.
func (d destination) entry(name string) string {
	if strings.IndexFunc(name, func(r rune) bool { return r > 0x7f || !isKeyByte(byte(r)) }) >= 0 {
		name = "'" + name + "'" // from 1.25 on; before, no such name can be there
	}
	host := ""
	if d.host != "" {
		host = "host=" + quoteValue(d.host) + " "
	}
	return fmt.Sprintf("%s = %sport=%d dbname=%s", name, host, d.port, quoteValue(d.database))
}

// writable says why an entry cannot lead there.
func (d destination) writable() error {
	if d.host == "" || d.database == "" || strings.ContainsAny(d.host+d.database, "\x00\r\n") {
		return fmt.Errorf("%q cannot be written into an entry", d.host+"/"+d.database)
	}
	return nil
}

// entryPair is one key=value of an entry, with the place of the value, quotes
// included.
type entryPair struct {
	key, value string
	start, end int
}

var errEntry = errors.New("the entry is not a list of key=value pairs")

// splitEntry takes an entry's value apart by PgBouncer's rules (cstr_get_pair in
// src/loader.c): pairs are separated by spaces, tabs are not; a value in single
// quotes has its quotes doubled; the character behind a closing quote is dropped.
func splitEntry(s string) ([]entryPair, error) {
	var pairs []entryPair
	skip := func(p int) int {
		for p < len(s) && s[p] == ' ' {
			p++
		}
		return p
	}
	for p := skip(0); p < len(s); p = skip(p) {
		var pair entryPair
		start := p
		for p < len(s) && s[p] != '=' && s[p] != ' ' {
			p++
		}
		pair.key = s[start:p]
		p = skip(p)
		if p == len(s) || s[p] != '=' || pair.key == "" {
			return nil, errEntry
		}
		p = skip(p + 1)
		pair.start = p
		if p < len(s) && s[p] == '\'' {
			length, ok := unquote(s[p:], &pair.value)
			if !ok {
				return nil, errEntry
			}
			p += length
		} else {
			for p < len(s) && s[p] != ' ' {
				p++
			}
			pair.value = s[pair.start:p]
		}
		if pair.value == "" {
			return nil, errEntry
		}
		pair.end = p
		pairs = append(pairs, pair)
		p = min(p+1, len(s))
	}
	return pairs, nil
}

// unquote reads a quoted value at the beginning of s and returns its length.
func unquote(s string, value *string) (length int, ok bool) {
	var b strings.Builder
	for p := 1; p < len(s); p++ {
		if s[p] == '\'' {
			if p+1 == len(s) || s[p+1] != '\'' {
				*value = b.String()
				return p + 1, true
			}
			p++
		}
		b.WriteByte(s[p])
	}
	return 0, false
}

// quoteValue writes a value so that PgBouncer reads it back as it is.
func quoteValue(v string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.:/@-", r)
	}
	if strings.IndexFunc(v, func(r rune) bool { return !plain(r) }) < 0 {
		return v
	}
	return "'" + strings.ReplaceAll(v, "'", "''") + "'"
}

// last returns the pair that counts of those with a key, or nil.
func last(pairs []entryPair, key string) *entryPair {
	for i := len(pairs) - 1; i >= 0; i-- {
		if pairs[i].key == key {
			return &pairs[i]
		}
	}
	return nil
}

// leadsTo says where the entry of a name leads.
func leadsTo(name, value string) (destination, error) {
	pairs, err := splitEntry(value)
	if err != nil {
		return destination{}, err
	}
	d := destination{port: 5432, database: name}
	if p := last(pairs, "host"); p != nil {
		d.host = p.value
	}
	if p := last(pairs, "dbname"); p != nil {
		d.database = p.value
	}
	if p := last(pairs, "port"); p != nil {
		if d.port, err = strconv.Atoi(p.value); err != nil {
			return destination{}, fmt.Errorf("the entry's port is %q", p.value)
		}
	}
	return d, nil
}

// repoint returns the value of the entry of a name so that it leads elsewhere.
// Only host, port and dbname change, and those only where they differ.
func repoint(name, value string, to destination) (string, error) {
	if err := to.writable(); err != nil {
		return "", err
	}
	now, err := leadsTo(name, value)
	if err != nil {
		return "", err
	}
	for _, change := range []struct {
		key, value string
		differs    bool
	}{
		{"host", to.host, now.host != to.host},
		{"port", strconv.Itoa(to.port), now.port != to.port},
		{"dbname", to.database, now.database != to.database},
	} {
		if change.differs {
			if value, err = setPair(value, change.key, change.value); err != nil {
				return "", err
			}
		}
	}
	return value, nil
}

func setPair(entry, key, value string) (string, error) {
	pairs, err := splitEntry(entry)
	if err != nil {
		return "", err
	}
	p, quoted := last(pairs, key), quoteValue(value)
	switch {
	case p == nil && entry == "":
		return key + "=" + quoted, nil
	case p == nil:
		return entry + " " + key + "=" + quoted, nil
	}
	// What stands right behind a closing quote is dropped: without a quote it would be
	// part of the value.
	if p.end < len(entry) && entry[p.end] != ' ' && quoted == value {
		quoted = "'" + value + "'"
	}
	return entry[:p.start] + quoted + entry[p.end:], nil
}
