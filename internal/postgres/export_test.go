package postgres

import "context"

// Begin says which of the settings a session on a server's first host may begin with.
func Begin(ctx context.Context, s *Server, quiet map[string]string) (map[string]string, error) {
	return s.members[0].begin(ctx, s.Database(), quiet)
}
