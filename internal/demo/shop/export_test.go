package shop

// Internals that tests look at.
var (
	ParseEuros = parseEuros
	Euros      = euros
	SlugOf     = slugOf
)
