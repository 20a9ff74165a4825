// Package schema moves everything that is not rows: it finds and runs pg_dump
// and pg_restore, makes the target database, and empties it again.
package schema
