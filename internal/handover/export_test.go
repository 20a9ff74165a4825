package handover

// TakenBack are the phases of the table that are taken back, in their order.
func TakenBack() (names []string) {
	for _, p := range table {
		if p.undo.do != nil || p.later != nil {
			names = append(names, p.name)
		}
	}
	return names
}
