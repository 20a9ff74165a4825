package shop_test

import (
	"testing"

	"pgbaton/internal/demo/shop"
)

func TestParseEuros(t *testing.T) {
	for text, want := range map[string]int64{
		"129": 12900, "129.5": 12950, "129,50": 12950, " 0.05 ": 5, "1249.00": 124900,
	} {
		if got, err := shop.ParseEuros(text); err != nil || got != want {
			t.Errorf("ParseEuros(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", ".", ".5", "-1", "1.234", "1.2.3", "1e3", "ten", "99999999999999999999"} {
		if got, err := shop.ParseEuros(text); err == nil {
			t.Errorf("ParseEuros(%q) = %d; want an error", text, got)
		}
	}
}

func TestEuros(t *testing.T) {
	for cents, want := range map[int64]string{5: "€0.05", 12900: "€129.00", 123456789: "€1,234,567.89"} {
		if got := shop.Euros(cents); got != want {
			t.Errorf("Euros(%d) = %s; want %s", cents, got, want)
		}
	}
}

func TestSlugOf(t *testing.T) {
	for name, want := range map[string]string{
		"Fjord Rain Jacket": "fjord-rain-jacket", `<script>"'`: "script", "Zelt – über 3000 m": "zelt-über-3000-m", "!?": "product",
	} {
		if got := shop.SlugOf(name); got != want {
			t.Errorf("SlugOf(%q) = %q; want %q", name, got, want)
		}
	}
}
