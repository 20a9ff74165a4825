// Package fence keeps applications out of a side that does not hold the baton,
// provably, and lets them in again with exactly the grants they had (rule 2).
package fence
