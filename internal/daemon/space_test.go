package daemon

import (
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestANearlyFullDatabaseIsSaidInJournalMetricsAndStatus(t *testing.T) {
	m, notifier := newManager(t)
	d := run(t, Inputs{Config: configured(t, flags(t.TempDir(), "--quota-backend-bytes=4000000")...), Notifier: notifier})
	d.ready(t)
	c := d.dial(t)
	level := func() string {
		_, _, text := ask(t, "http://"+d.client(t)+"/metrics")
		for line := range strings.Lines(text) {
			if rest, ok := strings.CutPrefix(line, "kvd_quota_level "); ok {
				return strings.TrimSpace(rest)
			}
		}
		return "none"
	}
	if got := level(); got != "0" {
		t.Errorf("the level of an empty database is %s", got)
	}
	value := strings.Repeat("x", 100<<10)
	for range 34 { // 3.4 of 4 MB
		must(t, put(t, c, "k", value))
	}
	low := d.log.wait(t, "the database is nearly full: compact or delete keys, or raise quota-backend-bytes", 0)
	if field(low, "message_id") != messageLow || field(low, "quota") != "4000000" {
		t.Errorf("it is %v", low)
	}
	m.expect(t, "STATUS=", "nearly full")
	if got := level(); got != "1" {
		t.Errorf("the level is %s", got)
	}
	now, err := c.Get(t.Context(), "k")
	must(t, err)
	_, err = c.Compact(t.Context(), now.Header.Revision, clientv3.WithCompactPhysical())
	must(t, err)
	plenty := d.log.wait(t, "the database is not near its quota any more", 0)
	if field(plenty, "message_id") != messagePlenty {
		t.Errorf("it is %v", plenty)
	}
	if got := level(); got != "0" {
		t.Errorf("with room again, the level is %s", got)
	}
	must(t, d.stop(t))
}
