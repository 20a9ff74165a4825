package schema

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"pgbaton/internal/postgres"
)

// Setting is one ALTER DATABASE ... SET, ALTER ROLE ... SET, or ALTER ROLE ... IN
// DATABASE ... SET, as the catalogs keep it (pg_db_role_setting.setconfig).
type Setting struct {
	Role  string // "" for all roles
	Name  string
	Value string
}

// RefusedSetting is a setting that a server does not take, and why.
type RefusedSetting struct {
	Setting
	Whose string // DATABASE "d", ROLE "r", or ROLE "r" IN DATABASE "d"
	Why   string // the server's message
}

// listSettings hold lists of names, which the catalogs keep quoted like identifiers
// (GUC_LIST_QUOTE in src/backend/utils/misc/guc_tables.c; no extension may have one).
var listSettings = []string{"local_preload_libraries", "search_path", "session_preload_libraries",
	"shared_preload_libraries", "temp_tablespaces", "unix_socket_directories"}

// preloads are those of them that a session must be able to load, or it does not come
// to be; the value is where a name without a directory is looked for.
var preloads = map[string]string{"session_preload_libraries": "", "local_preload_libraries": "$libdir/plugins/"}

// statements set it for whom: "DATABASE d", "ROLE r", "ROLE r IN DATABASE d". SET takes
// a list as one literal per name, and cannot say that there is none.
func (s Setting) statements(whose string) []string {
	set := fmt.Sprintf("ALTER %s SET %s ", whose, quoteSetting(s.Name))
	if !slices.Contains(listSettings, strings.ToLower(s.Name)) {
		return []string{set + "= " + postgres.QuoteLiteral(s.Value)}
	}
	names := splitNames(s.Value)
	if len(names) == 0 {
		return []string{fmt.Sprintf("SELECT pg_catalog.set_config(%s, '', true)", postgres.QuoteLiteral(s.Name)), set + "FROM CURRENT"}
	}
	for i, n := range names {
		names[i] = postgres.QuoteLiteral(n)
	}
	return []string{set + "= " + strings.Join(names, ", ")}
}

// splitNames takes a list apart that the server has written: names, in double quotes
// where they need them, and commas.
func splitNames(list string) (names []string) {
	rest := strings.TrimSpace(list)
	for rest != "" {
		var name strings.Builder
		if strings.HasPrefix(rest, `"`) {
			for rest = rest[1:]; rest != ""; {
				before, after, _ := strings.Cut(rest, `"`)
				name.WriteString(before)
				if rest = after; !strings.HasPrefix(rest, `"`) {
					break
				}
				name.WriteByte('"')
				rest = rest[1:]
			}
			_, rest, _ = strings.Cut(rest, ",")
		} else {
			var plain string
			plain, rest, _ = strings.Cut(rest, ",")
			name.WriteString(strings.TrimSpace(plain))
		}
		names = append(names, name.String())
		rest = strings.TrimSpace(rest)
	}
	return names
}

// quoteSetting quotes a setting's name, which may be of the form extension.name.
func quoteSetting(name string) string {
	return pgx.Identifier(strings.Split(name, ".")).Sanitize()
}

// assignment is a setting with whom it is for.
type assignment struct {
	Setting
	whose string
}

// assign gives settings within a transaction, one by one, and returns those that the
// server refuses: a newer version may not know them, or not their values, and the role
// may not be allowed to give them. A library is loaded first, in a session of its own:
// the server does not look for it before somebody logs in, and then lets nobody in.
func assign(ctx context.Context, server *postgres.Server, tx pgx.Tx, all []assignment) (refused []RefusedSetting, err error) {
	for _, a := range all {
		why, err := loadable(ctx, server, a.Setting)
		if err == nil && why == "" {
			why, err = give(ctx, tx, a)
		}
		if err != nil {
			return refused, fmt.Errorf("%s: %w", strings.Join(a.statements(a.whose), "; "), err)
		}
		if why != "" {
			refused = append(refused, RefusedSetting{Setting: a.Setting, Whose: a.whose, Why: why})
		}
	}
	return refused, nil
}

func give(ctx context.Context, tx pgx.Tx, a assignment) (why string, err error) {
	err = pgx.BeginFunc(ctx, tx, func(save pgx.Tx) error {
		for _, sql := range a.statements(a.whose) {
			if _, err := save.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
	return saysNo(err)
}

// loadable loads the libraries of a setting as a session that begins would.
func loadable(ctx context.Context, server *postgres.Server, s Setting) (why string, err error) {
	dir, ok := preloads[strings.ToLower(s.Name)]
	if !ok {
		return "", nil
	}
	conn, err := ConnectMaintenance(ctx, server)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	for _, name := range splitNames(s.Value) {
		if !strings.Contains(name, "/") {
			name = dir + name
		}
		_, err := conn.Exec(ctx, "LOAD "+postgres.QuoteLiteral(name))
		if why, err := saysNo(err); err != nil || why != "" {
			return why, err
		}
	}
	return "", nil
}

// saysNo tells a server that says no from one that could not be asked.
func saysNo(err error) (why string, _ error) {
	var pe *pgconn.PgError
	if errors.As(err, &pe) && pe.Severity == "ERROR" {
		return pe.Message, nil
	}
	return "", err
}
