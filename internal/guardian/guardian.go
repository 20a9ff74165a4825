// Package guardian is the process that stands by during a handover and takes over
// when the process that hands over is gone, hangs, or is over its budget (rule 6).
// The two are joined by a pipe: its end is the death of the one, whatever killed it.
package guardian
