package traffic

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// maxIncludes is how deep PgBouncer follows %include.
const maxIncludes = 10

// iniSetting is one key = value of a PgBouncer configuration.
type iniSetting struct {
	section, key, value string
	file                string // the file that holds it
	start, end          int    // where in the file the value stands
}

// iniConfig is a configuration as PgBouncer reads it: its file, and those it
// includes at the places where it includes them. The rules are those of its
// parser (lib/usual/cfparser.c and src/loader.c, which differ from the manual in
// the quoting of names):
//
//   - a statement begins after any white space, also right behind a section's ];
//   - a section goes on into an included file, and one that begins there goes on
//     behind the %include;
//   - a key is letters, digits and _.-*, or, from PgBouncer 1.25 on, anything in
//     single quotes;
//   - a value ends at the end of the line, white space cut off: there are no
//     comments behind values and no continued lines;
//   - of several entries of the same name the last one counts.
type iniConfig struct {
	settings []iniSetting
	workDir  string // of the PgBouncer; empty: unknown
	section  string
}

// readIni reads a configuration from its main file.
func readIni(file, workDir string) (*iniConfig, error) {
	c := &iniConfig{workDir: workDir}
	return c, c.include(file, 0)
}

var errRelativeInclude = errors.New("the file's name is relative to PgBouncer's working directory, which is not known")

func (c *iniConfig) include(file string, depth int) error {
	if depth > maxIncludes {
		return fmt.Errorf("%s: more than %d nested %%include", file, maxIncludes)
	}
	path := file
	if !filepath.IsAbs(path) {
		if c.workDir == "" {
			return fmt.Errorf("%s: %w", file, errRelativeInclude)
		}
		path = filepath.Join(c.workDir, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err // names the file
	}
	return c.parse(path, string(text), depth)
}

func (c *iniConfig) parse(file, text string, depth int) error {
	for p := 0; ; {
		for p < len(text) && isSpace(text[p]) {
			p++
		}
		line := text[p:]
		if i := strings.IndexByte(line, '\n'); i >= 0 {
			line = line[:i]
		}
		bad := func(why string) error {
			return fmt.Errorf("%s, line %d: %s", file, 1+strings.Count(text[:p], "\n"), why)
		}
		switch {
		case p == len(text):
			return nil
		case text[p] == 0:
			return bad("a zero byte, where PgBouncer stops reading")
		case strings.HasPrefix(line, "%include ") || strings.HasPrefix(line, "%include\t"):
			if err := c.include(trimSpace(strings.TrimLeft(line[len("%include"):], " \t")), depth+1); err != nil {
				return fmt.Errorf("included from %s: %w", file, err)
			}
			p += len(line)
		case text[p] == '#' || text[p] == ';':
			p += len(line)
		case text[p] == '[':
			name, _, closed := strings.Cut(line[1:], "]")
			if !closed {
				return bad("a section's name without ]")
			}
			c.section = name
			p += len(name) + 2
		default:
			s, ok := splitSetting(line)
			if !ok {
				return bad("neither a section nor key = value")
			}
			s.section, s.file, s.start, s.end = c.section, file, s.start+p, s.end+p
			c.settings = append(c.settings, s)
			p += len(line)
		}
	}
}

// splitSetting takes a line apart; start and end are relative to it.
func splitSetting(line string) (s iniSetting, ok bool) {
	p := 0
	if strings.HasPrefix(line, "'") {
		i := strings.IndexByte(line[1:], '\'')
		if i <= 0 {
			return s, false
		}
		s.key, p = line[1:1+i], i+2
	} else {
		for p < len(line) && isKeyByte(line[p]) {
			p++
		}
		s.key = line[:p]
	}
	skip := func() {
		for p < len(line) && (line[p] == ' ' || line[p] == '\t') {
			p++
		}
	}
	skip()
	if p == len(line) || line[p] != '=' {
		return s, false
	}
	p++
	skip()
	s.value = trimSpace(line[p:])
	s.start, s.end = p, p+len(s.value)
	return s, !strings.ContainsRune(line, 0)
}

func isSpace(b byte) bool { return b == ' ' || b >= '\t' && b <= '\r' }

func trimSpace(s string) string { return strings.TrimRight(s, " \t\n\v\f\r") }

// isKeyByte is generous with bytes above ASCII: whether they are letters depends
// on PgBouncer's locale, and what it has read without complaint is right.
func isKeyByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b >= 0x80 || strings.IndexByte("_.-*", b) >= 0
}

// database returns the entry that counts.
func (c *iniConfig) database(name string) (entry iniSetting, ok bool) {
	for _, s := range c.settings {
		if s.section == "databases" && s.key == name {
			entry, ok = s, true
		}
	}
	return entry, ok
}
