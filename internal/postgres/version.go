package postgres

import (
	"fmt"
	"strconv"
	"strings"
)

// Version is server_version_num: 120022 for 12.22.
type Version int

// Major returns the major version, 12 for 12.22.
func (v Version) Major() int { return int(v) / 10000 }

// String prints the version as people write it.
func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major(), int(v)%10000) }

// parseServerVersion reads the server_version that every server reports at
// connection start: "12.22", "15.18 (Debian ...)", "18beta1".
func parseServerVersion(s string) Version {
	s, _, _ = strings.Cut(s, " ")
	major, rest, _ := strings.Cut(s, ".")
	digits := strings.TrimRightFunc(major, func(r rune) bool { return r < '0' || r > '9' })
	if i := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		digits = digits[:i]
	}
	ma, _ := strconv.Atoi(digits)
	mi, _ := strconv.Atoi(rest)
	return Version(ma*10000 + mi)
}
