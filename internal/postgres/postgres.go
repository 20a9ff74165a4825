// Package postgres is the thin layer between pgbaton and the protocol: one way
// to open a connection, connection strings, versions, identifiers, positions,
// and errors that say on which side they happened.
package postgres
