package shop

import (
	"html/template"
	"io/fs"
	"path"
	"strings"
)

// A palette colours an illustration; its place among the palettes is that of
// its name among the colours of the catalogue.
type palette struct{ main, dark, light, ground string }

var palettes = [...]palette{
	{"#6f8552", "#4b5c36", "#b3c394", "#eaefdf"}, // moss
	{"#b85a33", "#87401f", "#e6a27b", "#f8e9df"}, // rust
	{"#5f7586", "#3e4f5d", "#a3b7c5", "#e5ecf1"}, // slate
	{"#c8a468", "#967748", "#ecd7ab", "#f7f0e1"}, // sand
	{"#34475f", "#1f2c3d", "#748ba9", "#e3e9f0"}, // ink
	{"#8d6e97", "#634a6c", "#c8afd0", "#f1e9f3"}, // heather
	{"#a3a54a", "#74762f", "#d8d994", "#f4f4df"}, // lichen
}

// drawings holds the illustration of each kind, by slug.
var drawings = readDrawings()

func readDrawings() map[string]string {
	files, err := fs.Glob(web, "web/art/*.svg")
	if err != nil {
		panic(err) // the pattern is wrong
	}
	drawings := map[string]string{}
	for _, file := range files {
		drawing, err := web.ReadFile(file)
		if err != nil {
			panic(err) // not embedded
		}
		drawings[strings.TrimSuffix(path.Base(file), ".svg")] = string(drawing)
	}
	return drawings
}

// illustration draws a product from its kind and id alone, the same every
// time. Kinds without a drawing come in a parcel.
func illustration(kind string, id int32) template.HTML {
	drawing, ok := drawings[kind]
	if !ok {
		drawing = drawings["parcel"]
	}
	p := palettes[int(id)%len(palettes)]
	// Nothing here comes from a user: kind only chooses among our own files.
	return template.HTML(strings.NewReplacer(
		"{main}", p.main, "{dark}", p.dark, "{light}", p.light, "{ground}", p.ground,
	).Replace(drawing))
}
