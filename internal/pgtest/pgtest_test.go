package pgtest

import (
	"strings"
	"testing"
)

func TestStart(t *testing.T) {
	t.Parallel()
	c := Start(t, 15, map[string]string{"work_mem": "5MB"}, map[string]string{"work_mem": "6MB"})
	Exec(t, c.ConnString("postgres"), "CREATE DATABASE d")
	conn := Connect(t, c.ConnString("d"))
	if got := QueryValue[string](t, conn, "SELECT current_setting($1)", "work_mem"); got != "6MB" {
		t.Errorf("work_mem %s", got)
	}
	if got := QueryValue[string](t, conn, "SELECT current_database()::text"); got != "d" {
		t.Errorf("connected to %s", got)
	}
}

func TestFetchFailureNamesTheRemedy(t *testing.T) {
	t.Parallel()
	if _, err := findOrFetch(99); err == nil || !strings.Contains(err.Error(), "fetch-postgres 99") {
		t.Errorf("error %v does not say what to run", err)
	}
}
