package journal

// This is the page of the journal: every entry that pgbaton keeps in table
// pgbaton.journal of either side, with what it holds, where, and until when. The
// package that uses an entry gives it its type ([One], [Many]); a test holds that type
// against Value.

// Place is the side, or the sides, on which an entry is kept.
type Place string

// Source and target are those of the migration; holder and taker those of a handover;
// publisher and subscriber those of a stream.
const (
	OnBoth       Place = "both sides"
	OnSource     Place = "source"
	OnTarget     Place = "target"
	OnHolder     Place = "holder"
	OnTaker      Place = "taker"
	OnPublisher  Place = "publisher"
	OnSubscriber Place = "subscriber"
)

// Name is an entry's name, and what there is to know of it.
type Name struct {
	Kind  string // column kind
	Key   string // column key; "" where By says what it is
	By    string // of what there is one entry each
	Value string // the Go type of column value, as its package spells it
	On    Place
	Until string // who removes it; with the schema all of them go
}

// What start keeps.
var (
	// Selection is what the migration includes. It comes with the record: a journal
	// without it has been emptied by somebody else.
	Selection = Name{Kind: "selection", Value: "catalog.Selection", On: OnBoth, Until: "the schema is dropped"}

	// RolesMade are the roles that start --roles made on the target.
	RolesMade = Name{Kind: "role", Key: "created", Value: "[]string", On: OnSource, Until: "the schema is dropped"}
	// DatabaseMade names the target database that start makes, or made.
	DatabaseMade = Name{Kind: "target-database", Key: "created", Value: "string", On: OnSource, Until: "the server refuses to make it"}
	// DatabaseEntered says that the target has its record, or is about to have it.
	DatabaseEntered = Name{Kind: "target-database", Key: "entered", Value: "bool", On: OnSource, Until: "the schema is dropped"}
	// Baseline is what was in the target database before start put anything in.
	Baseline = Name{Kind: "target-database", Key: "baseline", Value: "schema.Baseline", On: OnTarget, Until: "the schema is dropped"}

	// GroupPoint is the consistent point of a group's slot.
	GroupPoint = Name{Kind: "group", By: "group", Value: "string", On: OnSource, Until: "the slot is dropped by start"}
	// Copied is a table whose rows are there; committed with them.
	Copied = Name{Kind: "copied", By: "table", Value: "copiedTable", On: OnTarget, Until: "the load is complete"}
	// Built is a table whose indexes, keys and statistics are there, too.
	Built = Name{Kind: "finished", By: "table", Value: "bool", On: OnTarget, Until: "the load is complete"}
	// Defined says when the tables, and all else that comes before the rows, were complete.
	Defined = Name{Kind: "copy", Key: "defined", Value: "string", On: OnTarget, Until: "an unfinished load begins anew"}
	// RestBegan says that the restore of what comes after the rows has begun.
	RestBegan = Name{Kind: "copy", Key: "rest began", Value: "string", On: OnTarget, Until: "an unfinished load begins anew"}
	// Progress is what status shows of the copy.
	Progress = Name{Kind: "copy", Key: "progress", Value: "event.Progress", On: OnTarget, Until: "an unfinished load begins anew"}
	// Loaded says that rows, keys and statistics are complete, and with which slots they go.
	Loaded = Name{Kind: "copy", Key: "loaded", Value: "loaded", On: OnTarget, Until: "an unfinished load begins anew"}
	// Analyzed says when what follows the copy was done, too.
	Analyzed = Name{Kind: "copy", Key: "analyzed", Value: "string", On: OnTarget, Until: "an unfinished load begins anew"}
	// Functions are hashes of the source's functions that the target has, by signature.
	Functions = Name{Kind: "functions", Key: "source", Value: "map[string]string", On: OnTarget, Until: "the schema is dropped"}
)

// What is to be put back, or completed, on a side.
var (
	// Fence is what the fence changed.
	Fence = Name{Kind: "fence", Key: "saved", Value: "Saved", On: OnBoth, Until: "the fence is lifted"}
	// Identity is a replica identity that was changed for the stream.
	Identity = Name{Kind: "replica-identity", By: "table", Value: "IdentityChange", On: OnBoth, Until: "it is put back by finish or reset"}
	// QuietTrigger is a trigger that does not fire while its side receives.
	QuietTrigger = Name{Kind: "quiet-trigger", By: "trigger", Value: "Trigger", On: OnSubscriber, Until: "it is put back, when the side has the baton"}
	// EventTrigger is how an event trigger was enabled before its side received.
	EventTrigger = Name{Kind: "event-trigger", By: "event trigger", Value: "string", On: OnSubscriber, Until: "it is put back, when the side has the baton"}
	// ForeignKey is a foreign key between groups, withheld until they are at one position.
	ForeignKey = Name{Kind: "foreign-key", By: "foreign key", Value: "WithheldKey", On: OnSubscriber, Until: "it is complete, behind the pass"}
	// Check is a constraint that calls functions, held back until all rows are there.
	Check = Name{Kind: "check", By: "constraint", Value: "HeldCheck", On: OnSubscriber, Until: "it was looked at, behind the copy or the pass"}
	// ViewDue is a materialized view that is to be refreshed.
	ViewDue = Name{Kind: "materialized-view", By: "materialized view", Value: "Due", On: OnTaker, Until: "it is refreshed"}
)

// What is known of a stream.
var (
	// Slot is what is known of a group's replication slot (rule 17).
	Slot = Name{Kind: "slot", By: "group", Value: "slotMemory", On: OnPublisher, Until: "the slot is dropped"}
	// Filenodes are the files of a group's tables, where a TRUNCATE is not streamed.
	Filenodes = Name{Kind: "filenode", By: "group", Value: "map[string]uint32", On: OnPublisher, Until: "the schema is dropped"}
)

// What a handover keeps.
var (
	// Attempt is who raised the attempt last.
	Attempt = Name{Kind: "handover", Key: "attempt", Value: "attempt", On: OnHolder, Until: "the schema is dropped"}
	// Paused says that traffic is held back, or about to be.
	Paused = Name{Kind: "handover", Key: "paused", Value: "Held", On: OnHolder, Until: "traffic is let go"}
	// Stream says which attempt may have disabled the stream to the taker.
	Stream = Name{Kind: "handover", Key: "stream", Value: "int64", On: OnHolder, Until: "the stream is enabled again, or replaced"}
	// Stale says when a side was fenced that came back although the other had been
	// given the baton by force.
	Stale = Name{Kind: "handover", Key: "stale", Value: "time.Time", On: OnHolder, Until: "the schema is dropped"}
	// Drained says that a handover got as far as the pass.
	Drained = Name{Kind: "handover", Key: "drained", Value: "drained", On: OnTaker, Until: "the schema is dropped"}
	// Views are the holder's materialized views.
	Views = Name{Kind: "handover", Key: "views", Value: "heldViews", On: OnTaker, Until: "they are listed as ViewDue"}
	// Traffic says that traffic has not been moved to the taker.
	Traffic = Name{Kind: "handover", Key: "traffic", Value: "Held", On: OnTaker, Until: "traffic is let go"}
	// Arrived is what is known of traffic that was let go and not seen to arrive.
	Arrived = Name{Kind: "handover", Key: "arrival", Value: "Arrival", On: OnTaker, Until: "it is seen to arrive, or the next handover begins"}
	// Guardian is what a guardian did.
	Guardian = Name{Kind: "handover", Key: "guardian", Value: "GuardianNote", On: OnHolder, Until: "the next handover begins"}
	// Result is how a handover went, kept by the side that has the baton after it.
	Result = Name{Kind: "handover-result", By: "the time at which it began", Value: "Result", On: OnHolder, Until: "the schema is dropped"}
)

// Page lists all of them.
var Page = []Name{
	Selection, RolesMade, DatabaseMade, DatabaseEntered, Baseline,
	GroupPoint, Copied, Built, Defined, RestBegan, Progress, Loaded, Analyzed, Functions,
	Fence, Identity, QuietTrigger, EventTrigger, ForeignKey, Check, ViewDue,
	Slot, Filenodes,
	Attempt, Paused, Stream, Stale, Drained, Views, Traffic, Arrived, Guardian, Result,
}
