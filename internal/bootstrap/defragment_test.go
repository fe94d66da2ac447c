package bootstrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kvd/internal/store"
)

// holey makes a member whose database is mostly free pages, and returns how
// to open it again.
func holey(t *testing.T) Options {
	t.Helper()
	dir := t.TempDir()
	url := []string{"http://127.0.0.1:2380"}
	o := Options{
		DataDir: filepath.Join(dir, "data"), Name: "a", Token: "t",
		Cluster: []Seed{{Name: "a", PeerURLs: url}}, Advertised: url,
		Store: store.Options{InitialMmapBytes: 64 << 20},
	}
	m, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	at, err := m.stamp()
	if err != nil {
		t.Fatal(err)
	}
	var rows, gone store.Batch
	for i := range 4096 {
		key := fmt.Appendf(nil, "%8d", i)
		rows.Put(store.Lease, key, bytes.Repeat([]byte("x"), 1024))
		gone.Delete(store.Lease, slices.Clone(key))
	}
	if err := errors.Join(m.Store.Commit(at, &rows), m.Store.Commit(at, &gone), m.Close()); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestStartDefragmentsWhatIsWorthIt(t *testing.T) {
	o := holey(t)
	for _, c := range []struct {
		threshold int64
		rewritten bool
	}{
		{0, false},
		{64 << 20, false},
		{4 << 20, true},
		{4 << 20, false}, // done
	} {
		var status []string
		var logged bytes.Buffer
		o.DefragmentFrom = c.threshold
		o.Progress = func(text string) { status = append(status, text) }
		o.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		m, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		size, free := m.Store.Size(), m.Store.Size()-m.Store.InUse()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		told := slices.ContainsFunc(status, func(s string) bool { return strings.HasPrefix(s, "defragmenting the database: ") })
		if told != c.rewritten {
			t.Errorf("threshold %d: status %q", c.threshold, status)
		}
		if c.rewritten && (size > 1<<20 || free > 1<<19) {
			t.Errorf("threshold %d: %d bytes, %d free", c.threshold, size, free)
		}
		if skipped := strings.Contains(logged.String(), "skipping defragmentation"); skipped != (c.threshold > 0 && !c.rewritten) {
			t.Errorf("threshold %d: %s", c.threshold, logged.String())
		}
	}
}

func TestDefragmentationAtStartCanBeStopped(t *testing.T) {
	o := holey(t)
	o.DefragmentFrom = 1 << 20
	ctx, cancel := context.WithCancel(t.Context())
	o.Progress = func(text string) {
		if strings.HasPrefix(text, "defragmenting") {
			cancel()
		}
	}
	if _, err := Open(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	o.Progress, o.DefragmentFrom = nil, 0
	m, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}
