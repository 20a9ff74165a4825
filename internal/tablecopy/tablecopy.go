// Package tablecopy loads tables from one server into another while the source
// keeps working: rows under an exported snapshot, several tables and parts of big
// ones at a time, and behind them indexes, keys, foreign keys and statistics, as
// soon as a table has its rows. It changes nothing on the source.
package tablecopy
