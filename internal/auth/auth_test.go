package auth

import (
	"strings"
	"testing"

	"kvd/internal/store"
)

func load(t *testing.T, rows ...string) (*Book, error) {
	t.Helper()
	m := store.NewMem()
	var b store.Batch
	for i := 0; i < len(rows); i += 2 {
		b.Put(store.Auth, []byte(rows[i]), []byte(rows[i+1]))
	}
	if err := m.Commit(store.Stamp{}, &b); err != nil {
		t.Fatal(err)
	}
	r, err := m.Read()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	return Load(r)
}

func TestBookSaysWhatTheRowsSay(t *testing.T) {
	for name, c := range map[string]struct {
		rows     []string
		enabled  bool
		revision uint64
	}{
		"never written": {nil, false, 0},
		"fresh":         {[]string{"authRevision", "\x00\x00\x00\x00\x00\x00\x00\x01"}, false, 1},
		"off":           {[]string{"authEnabled", "\x00", "authRevision", "\x00\x00\x00\x00\x00\x00\x01\x02"}, false, 258},
		"on":            {[]string{"authEnabled", "\x01", "authRevision", "\x00\x00\x00\x00\x00\x00\x00\x05"}, true, 5},
	} {
		b, err := load(t, c.rows...)
		if err != nil || b.Now().Enabled() != c.enabled || b.Now().Revision() != c.revision {
			t.Errorf("%s: %+v, %v", name, b, err)
		}
	}
}

func TestDamagedRowsAreRefused(t *testing.T) {
	for want, rows := range map[string][]string{
		"row authEnabled holds 02":      {"authEnabled", "\x02"},
		"row authEnabled holds 0100":    {"authEnabled", "\x01\x00"},
		"row authRevision has 1 bytes,": {"authRevision", "\x01"},
	} {
		if b, err := load(t, rows...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, %v; want %q", b, err, want)
		}
	}
}
