package demo

import "pgbaton/internal/event"

// A Report is what came out. Times are milliseconds where the name says so.
type Report struct {
	From string `json:"from"` // versions of the servers
	To   string `json:"to"`

	ShopURL       string `json:"shop_url"`
	Products      int64  `json:"products"`
	OrdersBefore  int64  `json:"orders_before"` // history, before the shoppers came
	DatabaseBytes int64  `json:"database_bytes"`

	TablesCopied      int     `json:"tables_copied"`
	BytesCopied       int64   `json:"bytes_copied"`
	BytesPerSecond    float64 `json:"bytes_per_second"`
	StartSeconds      float64 `json:"start_seconds"`
	OrdersDuringStart int64   `json:"orders_during_start"`

	PauseMS                float64 `json:"pause_ms"`
	Phases                 []Phase `json:"phases"`
	SlowestOrderMS         float64 `json:"slowest_order_ms"`          // around the switchover, as shoppers saw it
	SlowestRequestMS       float64 `json:"slowest_request_ms"`        // of all, pages too
	SlowestRequestBeforeMS float64 `json:"slowest_request_before_ms"` // until the switchover

	ServedBy      string `json:"served_by"`      // version in the shop's footer after the switchover
	SourceRefusal string `json:"source_refusal"` // what the source says to the shop after it

	Requests           int64 `json:"requests"`
	FailedRequests     int64 `json:"failed_requests"`
	OrdersAcknowledged int   `json:"orders_acknowledged"`
	OrdersFound        int   `json:"orders_found"` // of these, on the target, exactly once and as sold
	AuditOK            bool  `json:"audit_ok"`     // nor was any order doubled or invented
	OrdersOnTarget     int64 `json:"orders_on_target"`
	OrdersOnSource     int64 `json:"orders_on_source"`

	Seconds float64 `json:"seconds"` // until this report
}

// A Phase is one part of the handover.
type Phase struct {
	Name string  `json:"name"`
	MS   float64 `json:"ms"`
}

// conclude prints the report.
func (d *demo) conclude() {
	r := &d.report
	r.Seconds = event.Since(d.began)
	d.chapter("Report")
	d.fact("moved", "PostgreSQL %s to PostgreSQL %s", r.From, r.To)
	d.fact("copied", "%s, %s, at %s/s; %s taken meanwhile", plural(r.TablesCopied, "table", "tables"),
		megabytes(float64(r.BytesCopied)), megabytes(r.BytesPerSecond), plural(r.OrdersDuringStart, "order", "orders"))
	d.fact("pause", "%.0f ms", r.PauseMS)
	d.fact("slowest around it", "page or order %.0f ms, order %.0f ms", r.SlowestRequestMS, r.SlowestOrderMS)
	d.fact("failed requests", "%d of %s", r.FailedRequests, count(r.Requests))
	d.fact("orders acknowledged", "%s, each of them on the new server exactly once", count(r.OrdersAcknowledged))
	d.fact("the whole demo", "%s", duration(seconds(r.Seconds)))
}
