package config

import (
	"fmt"
	"time"
)

const (
	mostInflight   = 1_000_000
	leastDefrag    = 100 * time.Millisecond // between two looks
	leastStallTime = time.Second
)

// spaceRules are of how a member looks after its space and its load.
func spaceRules() []rule {
	return []rule{
		{[]string{"audit-log"}, func(c *Config) (string, string) {
			switch c.Log.Audit {
			case "none", "writes", "all":
				return "", ""
			}
			return fmt.Sprintf("%q is unknown", c.Log.Audit), "use none, writes or all"
		}},
		{[]string{"auto-defrag-free-percent"}, func(c *Config) (string, string) {
			if p := c.Store.DefragFreePercent; p > 100 {
				return fmt.Sprintf("%d is not a part of 100", p), "use 0 to 100"
			}
			return "", ""
		}},
		{[]string{"auto-defrag-interval"}, func(c *Config) (string, string) {
			if d := c.Store.DefragInterval; d < leastDefrag {
				return fmt.Sprintf("%v is too short", d), fmt.Sprintf("use %v or more; auto-defrag-free-percent = 0 switches it off", leastDefrag)
			}
			return "", ""
		}},
		{[]string{"max-inflight-requests"}, func(c *Config) (string, string) {
			if n := c.Limits.Inflight; n < 1 || n > mostInflight {
				return fmt.Sprintf("%d is not between 1 and %d", n, mostInflight), "leave it out for 16384"
			}
			return "", ""
		}},
		{[]string{"watch-stall-timeout"}, func(c *Config) (string, string) {
			if d := c.Watch.StallTimeout; d != 0 && d < leastStallTime {
				return fmt.Sprintf("%v is too short", d), fmt.Sprintf("use %v or more, or 0 for never", leastStallTime)
			}
			return "", ""
		}},
	}
}
