package shop

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// An Outcome is what a shopper knows of an order.
type Outcome string

// The outcomes of an order. A log holds Sent before the request and one of
// the others after it; Sent alone is a shopper that died in between.
const (
	Sent         Outcome = "sent"
	Acknowledged Outcome = "acknowledged" // a receipt was given: the order must exist
	Failed       Outcome = "failed"       // the shop said that nothing was placed: it must not
	Unknown      Outcome = "unknown"      // no usable answer: it may exist
)

// An Entry is one order in a shopper's log.
type Entry struct {
	Shopper    string        `json:"shopper"`
	Token      string        `json:"token"`
	Outcome    Outcome       `json:"outcome"`
	Number     string        `json:"number,omitempty"`
	TotalCents int64         `json:"total_cents,omitempty"`
	At         time.Time     `json:"at"`                   // when the request was sent
	Latency    time.Duration `json:"latency_ns,omitempty"` // until it was answered
	Error      string        `json:"error,omitempty"`
}

// A Ledger is what all shoppers of a run know of their orders.
type Ledger struct {
	Shoppers []string
	Entries  []Entry // one for each token sent
}

// Count returns how many orders ended so.
func (l *Ledger) Count(outcome Outcome) int {
	n := 0
	for _, entry := range l.Entries {
		if entry.Outcome == outcome {
			n++
		}
	}
	return n
}

// A shopperLog keeps one shopper's entries, in memory and, where there is a
// file, as JSON lines appended to it.
type shopperLog struct {
	entries []Entry
	file    *os.File // nil keeps no file
}

// openLog creates the file of a shopper in a directory; "" keeps no file.
func openLog(directory string, number int) (*shopperLog, error) {
	if directory == "" {
		return &shopperLog{}, nil
	}
	name := filepath.Join(directory, fmt.Sprintf("shopper-%03d.jsonl", number))
	file, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("shop: open shopper's log: %w", err)
	}
	return &shopperLog{file: file}, nil
}

// sent is written before the request leaves: an order that exists is never
// one that no log has heard of.
func (l *shopperLog) sent(entry Entry) error {
	entry.Outcome = Sent
	return l.write(entry)
}

func (l *shopperLog) done(entry Entry) error {
	l.entries = append(l.entries, entry)
	return l.write(entry)
}

func (l *shopperLog) write(entry Entry) error {
	if l.file == nil {
		return nil
	}
	if err := json.NewEncoder(l.file).Encode(entry); err != nil {
		return fmt.Errorf("shop: write shopper's log: %w", err)
	}
	return nil
}

func (l *shopperLog) close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// ReadLedger reads the logs that shoppers left in a directory, those of
// shoppers that died included: an order without an answer is [Unknown].
func ReadLedger(directory string) (*Ledger, error) {
	names, err := filepath.Glob(filepath.Join(directory, "shopper-*.jsonl"))
	if err != nil {
		return nil, fmt.Errorf("shop: find shoppers' logs: %w", err)
	}
	ledger := &Ledger{}
	for _, name := range names {
		if err := ledger.readLog(name); err != nil {
			return nil, fmt.Errorf("shop: read %s: %w", name, err)
		}
	}
	return ledger, nil
}

func (l *Ledger) readLog(name string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	place := map[string]int{} // of a token in Entries
	known := map[string]bool{}
	for _, shopper := range l.Shoppers {
		known[shopper] = true
	}
	decoder := json.NewDecoder(bufio.NewReader(file))
	for {
		var entry Entry
		err := decoder.Decode(&entry)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil // the last line of a shopper that died may be half a line
		}
		if err != nil {
			return err
		}
		if !known[entry.Shopper] {
			known[entry.Shopper] = true
			l.Shoppers = append(l.Shoppers, entry.Shopper)
		}
		if entry.Outcome == Sent {
			entry.Outcome = Unknown // until a later line says more
		}
		if i, ok := place[entry.Token]; ok {
			l.Entries[i] = entry
			continue
		}
		place[entry.Token] = len(l.Entries)
		l.Entries = append(l.Entries, entry)
	}
}
