package postgres

import (
	"context"
	"maps"
	"slices"
)

// shaping are those of our session settings that decide what a query finds and
// how a value looks as text.
var shaping = []string{"search_path", "row_security", "DateStyle", "IntervalStyle", "TimeZone", "extra_float_digits",
	"bytea_output", "standard_conforming_strings", "default_transaction_isolation", "transform_null_equals", "xmloption"}

// ConnectPlain opens a session on the side's database for a query of the user's:
// names are found and values are printed by the settings of the database and of
// our role, not by ours. What else keeps a session of ours alive, and harmless,
// holds in it too.
func (s *Server) ConnectPlain(ctx context.Context) (*Session, error) {
	return s.connectPgx(ctx, s.Database(), func(settings map[string]string) {
		for _, name := range shaping {
			delete(settings, name)
		}
	})
}

// KeptSettings names the settings that a plain session has from us, and those that
// would make it another role's: whoever gives it a role's settings leaves them alone.
func (s *Server) KeptSettings() []string {
	names := []string{"session_authorization"}
	for name := range maps.Keys(sessionSettings(s.known())) {
		if !slices.Contains(shaping, name) {
			names = append(names, name)
		}
	}
	return names
}
