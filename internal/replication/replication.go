// Package replication drives PostgreSQL's own logical replication:
// publications, slots with exported snapshots, subscriptions, markers, lag,
// replica identities and sequences.
package replication
