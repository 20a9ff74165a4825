package migrate

import (
	"testing"

	"pgbaton/internal/event"
)

// TestSecondsLeft: what grows by a byte now and then does not fill a disk "in
// about 1000 hours".
func TestSecondsLeft(t *testing.T) {
	const gb = 1 << 30
	for _, c := range []struct {
		bytes, limit int64
		rate, want   float64
	}{
		{0, 0, 100, 0}, {1, gb, 0, 0}, {gb, gb, 5, 0}, {0, gb, gb / 128, 128}, {0, 500 * gb, 1, 0}, {0, 90 * 86400, 1, 0}, {1, 90 * 86400, 1, 90*86400 - 1},
	} {
		if got := secondsLeft(event.RetainedWAL{Bytes: c.bytes, Limit: c.limit, BytesPerSec: c.rate}); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
