package cluster

import (
	"fmt"
	"path/filepath"
	"strconv"
)

// standby makes the data directory of a hot standby out of that of a server that is stopped. When that
// one is started again it has to have the physical replication slot StandbySlot.
func (c *Cluster) standby(primary *Cluster) error {
	if primary.Running() {
		return fmt.Errorf("the server on port %d runs: its files cannot be copied", primary.port)
	}
	if err := c.copyTree(primary.DataDir(), c.DataDir()); err != nil {
		return err
	}
	c.settings["primary_conninfo"] = "host=" + loopback + " port=" + strconv.Itoa(primary.port) + " user=" + superuser + " dbname=postgres"
	c.settings["primary_slot_name"] = StandbySlot
	return c.account.writeFile(filepath.Join(c.DataDir(), "standby.signal"), "")
}

// StandbySlot is the physical replication slot through which a standby streams.
const StandbySlot = "standby"
