package postgres

// Side is one of the two ends of a migration. It is fixed for the whole
// migration: the source stays the source, also after the baton has moved.
type Side string

// The two sides.
const (
	Source Side = "source"
	Target Side = "target"
)

// Other returns the opposite side.
func (s Side) Other() Side {
	if s == Source {
		return Target
	}
	return Source
}
