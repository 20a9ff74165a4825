package shop

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5/pgtype"
)

// slugOf makes the part of a URL that names a product: letters and digits of
// any script, and single hyphens between them.
func slugOf(name string) string {
	words := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
	if len(words) == 0 {
		return "product"
	}
	return strings.Join(words, "-")
}

// euros renders cents as a price: €1,249.00.
func euros(cents int64) string {
	whole := strconv.FormatInt(cents/100, 10)
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	return fmt.Sprintf("€%s.%02d", whole, cents%100)
}

// plainEuros renders cents as [parseEuros] reads them.
func plainEuros(cents int64) string {
	return fmt.Sprintf("%d.%02d", cents/100, cents%100)
}

// parseEuros reads a price as people type it, such as 129, 129.5 or 129,50.
func parseEuros(text string) (int64, error) {
	whole, fraction, _ := strings.Cut(strings.Replace(strings.TrimSpace(text), ",", ".", 1), ".")
	if len(fraction) > 2 {
		return 0, errors.New("a price has at most two decimals")
	}
	cents, err := strconv.ParseUint(whole+fraction+"00"[len(fraction):], 10, 63)
	if err != nil || whole == "" {
		return 0, errors.New("not a price; write it like 129.50")
	}
	return int64(cents), nil
}

// newToken makes a random (version 4) UUID.
func newToken() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return pgtype.UUID{Bytes: b, Valid: true}.String()
}

// parseToken returns the canonical form of a UUID.
func parseToken(text string) (string, bool) {
	var id pgtype.UUID
	if text == "" || id.Scan(text) != nil {
		return "", false
	}
	return id.String(), true
}
