package handover

import (
	"testing"

	"pgbaton/internal/event"
)

// TestTell: a phase that takes its time says what it is at, and nothing once it has
// ended.
func TestTell(t *testing.T) {
	t.Parallel()
	told := make(chan event.Event, 10)
	r := &run{Config: Config{Observe: func(e event.Event) { told <- e }}}
	stop := r.tell(PhaseReady)
	r.at("comparing")
	e, ok := (<-told).(event.Working)
	stop()
	if !ok || e.Phase != PhaseReady || e.Doing != "comparing" || e.Seconds < tellAfter.Seconds() {
		t.Errorf("%+v", e)
	}
	if len(told) > 0 {
		t.Errorf("told after the end: %+v", <-told)
	}
}
