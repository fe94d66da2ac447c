package daemon

import (
	"testing"

	"kvd/internal/replica"
)

func TestAStartSaysWhatItWaitsFor(t *testing.T) {
	for _, c := range []struct {
		status replica.Status
		first  uint64
		want   string
	}{
		{replica.Status{Commit: 300, Applied: 100}, 100, "replaying the log, 0 %"},
		{replica.Status{Commit: 300, Applied: 299}, 100, "replaying the log, 99 %"},
		{replica.Status{Commit: 300, Applied: 300}, 100, "waiting for a leader"},
		{replica.Status{Commit: 300, Applied: 300, Leader: 7}, 100, "making this member known"},
		{replica.Status{}, 0, "waiting for a leader"},
	} {
		if got := waiting(c.status, c.first); got != c.want {
			t.Errorf("%+v: %q, want %q", c.status, got, c.want)
		}
	}
}

func TestAmountsReadWell(t *testing.T) {
	for bytes, want := range map[int64]string{0: "0 B", 1023: "1023 B", 20480: "20 KiB", 1 << 31: "2 GiB", 3 << 19: "1.5 MiB", 1 << 50: "1024 TiB"} {
		if got := amount(bytes); got != want {
			t.Errorf("%d: %s, want %s", bytes, got, want)
		}
	}
}
