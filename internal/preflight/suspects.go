package preflight

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// This file reads the bodies of functions for calls by plain names: a branch that no
// row of the sample has taken would fail at the first row that takes it.

var (
	// insignificant is what holds no calls: comments and strings.
	insignificant = regexp.MustCompile(`(?s)--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'`)
	// callPattern matches a name before a parenthesis, with the schema if there is one.
	callPattern = regexp.MustCompile(`("(?:[^"]|"")+"|[\pL_][\pL\pN_$]*)(\s*\.\s*(?:"(?:[^"]|"")+"|[\pL_][\pL\pN_$]*))?\s*\(`)
)

// calls lists the functions that a body calls by plain names, and those that it
// calls at all.
func calls(body string) (plain, all []string) {
	for _, m := range callPattern.FindAllStringSubmatch(insignificant.ReplaceAllString(body, " "), -1) {
		name := m[1]
		if m[2] != "" {
			name = strings.TrimLeft(m[2], " \t\r\n.")
		}
		if strings.HasPrefix(name, `"`) {
			name = strings.ReplaceAll(strings.Trim(name, `"`), `""`, `"`)
		} else {
			name = strings.ToLower(name)
		}
		all = append(all, name)
		if m[2] == "" {
			plain = append(plain, name)
		}
	}
	return plain, all
}

// name is a function's own, from its signature.
func (f function) name() string {
	name := strings.TrimPrefix(f.signature, f.schema+".")
	if !strings.HasPrefix(f.signature, f.schema+".") { // quoted
		_, name, _ = strings.Cut(f.signature, `".`)
	}
	name, _, _ = strings.Cut(name, "(")
	return strings.ReplaceAll(strings.Trim(name, `"`), `""`, `"`)
}

// suspects tells of functions that the expressions reach and that call others by
// plain names, although the rows that were tried did not get that far.
func (p *paths) suspects(e *end, expressions []expression, told map[uint32]proposal) {
	byName := map[string][]uint32{}
	for oid, f := range p.functions {
		byName[f.name()] = append(byName[f.name()], oid)
	}
	found := map[uint32]proposal{}
	var objects []string
	for _, x := range expressions {
		seen := map[uint32]bool{}
		next := slices.Clone(x.functions)
		for len(next) > 0 {
			f := next[0]
			next = next[1:]
			if seen[f] || p.functions[f].extension || p.functions[f].settled {
				continue
			}
			seen[f] = true
			plain, all := calls(p.functions[f].source)
			for _, name := range all {
				next = append(next, byName[name]...)
			}
			plain = slices.DeleteFunc(plain, func(name string) bool { return len(byName[name]) == 0 || p.builtin[name] })
			_, known := told[x.functions[0]]
			if _, seen := found[f]; seen || known || len(plain) == 0 {
				continue
			}
			found[f] = proposal{path: p.where(byName, plain)}
			objects = append(objects, fmt.Sprintf("%s: function %s calls %s by a plain name", x.what, p.functions[f].signature, strings.Join(slices.Compact(slices.Sorted(slices.Values(plain))), ", ")))
		}
	}
	if len(objects) > 0 {
		slices.Sort(objects)
		e.add(Finding{Code: "search-path-suspect", Severity: Warning, Side: e.Side, Objects: objects,
			Text: fmt.Sprintf("%s that generated columns, checks or indexes use seem to find others by a search_path; the rows that were tried did not show it. Rows are copied and applied with an empty one: one that gets there would fail",
				plural(len(found), "function")),
			Remedy: p.remedy(found)})
	}
}

// where lists the schemas that the functions of these names are in.
func (p *paths) where(byName map[string][]uint32, names []string) []string {
	in := map[string]bool{}
	for _, name := range names {
		for _, f := range byName[name] {
			in[p.functions[f].schema] = true
		}
	}
	return slices.Sorted(maps.Keys(in))
}
