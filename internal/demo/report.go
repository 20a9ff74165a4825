package demo

import (
	"context"

	"pgbaton/internal/event"
)

// A Report is what came out. Times are milliseconds where the name says so.
type Report struct {
	From   string `json:"from"` // versions of the servers
	To     string `json:"to"`
	Pooler string `json:"pooler,omitempty"` // empty: the shop connects to the servers itself

	ShopURL       string `json:"shop_url"`
	Products      int64  `json:"products"`
	OrdersBefore  int64  `json:"orders_before"` // history, before the shoppers came
	DatabaseBytes int64  `json:"database_bytes"`

	TablesCopied      int     `json:"tables_copied"`
	BytesCopied       int64   `json:"bytes_copied"`
	BytesPerSecond    float64 `json:"bytes_per_second"`
	StartSeconds      float64 `json:"start_seconds"`
	OrdersDuringStart int64   `json:"orders_during_start"`

	Handovers []Handover `json:"handovers"`
	Stays     []Stay     `json:"stays"`

	Requests           int64 `json:"requests"`
	FailedRequests     int64 `json:"failed_requests"`
	OrdersAcknowledged int   `json:"orders_acknowledged"`
	OrdersFound        int   `json:"orders_found"` // of these, on the target, exactly once and as sold
	AuditOK            bool  `json:"audit_ok"`     // nor was any order doubled or invented
	OrdersOnTarget     int64 `json:"orders_on_target"`
	OrdersOnSource     int64 `json:"orders_on_source"` // it follows: the same

	Seconds float64 `json:"seconds"` // until this report
}

// A Handover is one switchover or rollback, as pgbaton and the shoppers saw it.
type Handover struct {
	Command         string  `json:"command"`
	To              string  `json:"to"` // the side that got the baton
	PauseMS         float64 `json:"pause_ms"`
	DatabasePauseMS float64 `json:"database_pause_ms"`
	Phases          []Phase `json:"phases"`

	SlowestOrderMS         float64 `json:"slowest_order_ms"`          // around it, as shoppers saw it
	SlowestRequestMS       float64 `json:"slowest_request_ms"`        // of all, pages too
	SlowestRequestBeforeMS float64 `json:"slowest_request_before_ms"` // since the last one, or since the shoppers came
	FailedRequests         int64   `json:"failed_requests"`           // from its beginning until it was seen to work

	ServedBy string `json:"served_by"` // version in the shop's footer after it
	Refusal  string `json:"refusal"`   // what the other side says to the shop after it
}

// A Phase is one part of a handover.
type Phase struct {
	Name string  `json:"name"`
	MS   float64 `json:"ms"`
}

// A Stay is the time that the shop spent on one server.
type Stay struct {
	Side    string `json:"side"`
	Version string `json:"version"`
	Orders  int64  `json:"orders"` // acknowledged to shoppers
}

// conclude prints the report.
func (d *demo) conclude(context.Context) error {
	r := &d.report
	r.Seconds = event.Since(d.began)
	d.chapter("Report")
	for _, h := range r.Handovers {
		d.fact(h.Command, "pause %.0f ms; a shopper's longest wait %.0f ms (before: %.0f)",
			h.PauseMS, h.SlowestRequestMS, h.SlowestRequestBeforeMS)
	}
	d.fact("failed requests", "%d of %s", r.FailedRequests, count(r.Requests))
	d.fact("the whole demo", "%s", duration(seconds(r.Seconds)))
	return nil
}
