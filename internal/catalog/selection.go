package catalog

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"pgbaton/internal/postgres"
)

// Selection says which tables, sequences and materialized views a migration
// includes, by patterns as pg_dump has them. The zero value includes all.
//
// A relation is included when its schema matches one of Schemas, if there are
// any, and none of ExcludeSchemas, and it or one of its ancestors (the tables it
// is a partition of, or inherits from) matches one of Tables, if there are any,
// and none of ExcludeTables. A sequence that a column owns follows its table.
//
// Two things differ from pg_dump. A table pattern without a dot names tables in
// every schema: pg_dump takes those that the search_path shows, and ours is
// empty. And --table does not switch --schema off: both must match.
type Selection struct {
	Schemas        []string `json:"schemas,omitempty"`
	ExcludeSchemas []string `json:"exclude_schemas,omitempty"`
	Tables         []string `json:"tables,omitempty"`
	ExcludeTables  []string `json:"exclude_tables,omitempty"`
}

// IsZero says whether all is included.
func (s Selection) IsZero() bool {
	return len(s.Schemas) == 0 && len(s.ExcludeSchemas) == 0 && len(s.Tables) == 0 && len(s.ExcludeTables) == 0
}

// Check reports the first pattern that is not valid, by option and text.
func (s Selection) Check() error {
	_, err := s.compile()
	return err
}

// filter is a Selection that was understood.
type filter struct {
	schemas, excludeSchemas, tables, excludeTables []pattern
}

func (s Selection) compile() (f filter, err error) {
	for _, o := range []struct {
		option string
		texts  []string
		parts  int // a pattern may have
		to     *[]pattern
	}{
		{"--schema", s.Schemas, 1, &f.schemas},
		{"--exclude-schema", s.ExcludeSchemas, 1, &f.excludeSchemas},
		{"--table", s.Tables, 2, &f.tables},
		{"--exclude-table", s.ExcludeTables, 2, &f.excludeTables},
	} {
		for _, text := range o.texts {
			p, err := parsePattern(text, o.parts)
			if err != nil {
				return filter{}, fmt.Errorf("%s %s: %w", o.option, text, err)
			}
			p.option = o.option
			*o.to = append(*o.to, p)
		}
	}
	return f, nil
}

// pattern is one name, or schema and name, as regular expressions.
type pattern struct {
	option, text string
	schema       *regexp.Regexp // nil: any
	name         *regexp.Regexp
}

func (p pattern) String() string { return p.option + " " + p.text }

func (p pattern) matches(i postgres.Ident) bool {
	return (p.schema == nil || p.schema.MatchString(i.Schema)) && p.name.MatchString(i.Name)
}

// parsePattern reads a pattern of at most so many parts.
func parsePattern(text string, most int) (p pattern, err error) {
	if text == "" {
		return p, errors.New("the pattern is empty")
	}
	parts, err := splitPattern(text)
	if err != nil {
		return p, err
	}
	switch {
	case len(parts) > most && most == 1:
		return p, errors.New(`a schema's name has no dot, unless it is in double quotes`)
	case len(parts) > most:
		return p, errors.New(`more than one dot: give schema.table, and put a name that has a dot into double quotes`)
	}
	p.text = text
	for i, part := range parts {
		if part == "" {
			return p, errors.New("a name in it is empty")
		}
		re, err := compilePart(part)
		if err != nil {
			return p, err
		}
		if i == len(parts)-1 {
			p.name = re
		} else {
			p.schema = re
		}
	}
	return p, nil
}

// splitPattern turns a pattern into regular expressions, one for each of its
// parts, by the rules of psql and pg_dump (patternToSQLRegex in
// src/fe_utils/string_utils.c): outside double quotes letters of ASCII are
// folded to lower case, * and ? stand for any characters and one, a dot
// separates, and the other special characters of regular expressions stay
// special; a dollar never is, and neither are the brackets of an array type.
func splitPattern(text string) (parts []string, err error) {
	var part strings.Builder
	quoted := false
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '"' && quoted && strings.HasPrefix(text[i+1:], `"`):
			part.WriteByte(c)
			i++
		case c == '"':
			quoted = !quoted
		case c == '$':
			part.WriteString(`\$`)
		case quoted:
			if strings.IndexByte(`|*+?()[]{}.^\`, c) >= 0 {
				part.WriteByte('\\')
			}
			part.WriteByte(c)
		case c >= 'A' && c <= 'Z':
			part.WriteByte(c - 'A' + 'a')
		case c == '*':
			part.WriteString(".*")
		case c == '?':
			part.WriteByte('.')
		case c == '.':
			parts = append(parts, part.String())
			part.Reset()
		case c == '[' && strings.HasPrefix(text[i+1:], "]"):
			part.WriteString(`\[`)
		default:
			part.WriteByte(c)
		}
	}
	if quoted {
		return nil, errors.New("a double quote is not closed")
	}
	return append(parts, part.String()), nil
}

// letterEscape finds each backslash with the character that it goes with.
var letterEscape = regexp.MustCompile(`(?s)\\.`)

// compilePart makes the expression that has to match a whole name. A backslash
// before a letter or digit is let through only where Go means the same by it as
// PostgreSQL does.
func compilePart(expression string) (*regexp.Regexp, error) {
	for _, escape := range letterEscape.FindAllString(expression, -1) {
		switch c := escape[1]; {
		case c == 'd', c == 's', c == 'w':
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			return nil, fmt.Errorf(`%s is not supported in a pattern`, escape)
		}
	}
	re, err := regexp.Compile("(?s)^(" + expression + ")$")
	if err != nil {
		return nil, fmt.Errorf("not a regular expression that can be evaluated: %w; put a name with special characters into double quotes", err)
	}
	return re, nil
}

// schema says whether a schema is included.
func (f *filter) schema(name string) bool {
	match := func(p pattern) bool { return p.name.MatchString(name) }
	return (len(f.schemas) == 0 || slices.ContainsFunc(f.schemas, match)) && !slices.ContainsFunc(f.excludeSchemas, match)
}
