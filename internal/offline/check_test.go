package offline

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kvd/internal/mvcc"
	"kvd/internal/store"
)

// altered is a copy of a database with other rows.
func altered(t *testing.T, path string, a store.Alter) string {
	t.Helper()
	from, err := store.Open(path, store.Options{InitialMmapBytes: 1 << 20, ReadOnly: true})
	must(t, err)
	to := filepath.Join(t.TempDir(), "db")
	must(t, from.CopyInto(t.Context(), to, a))
	must(t, from.Close())
	return to
}

func wantFinding(t *testing.T, r *Report, w Weight, word string) {
	t.Helper()
	for _, f := range r.Findings {
		if f.Weight == w && strings.Contains(f.Where+": "+f.Problem, word) {
			if w == Fault && f.Remedy == "" {
				t.Errorf("no remedy: %+v", f)
			}
			return
		}
	}
	t.Errorf("no %s %q: %+v", w, word, r.Findings)
}

func TestEachPartOfADatabaseIsChecked(t *testing.T) {
	whole := sample(t, "etcd-3.7.3.db")
	rev := func(main int64) []byte { return mvcc.Revision{Main: main}.Append(nil) }
	id := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	for name, c := range map[string]struct {
		change func(rows *store.Batch)
		weight Weight
		word   string
	}{
		"a revision is missing":   {func(b *store.Batch) { b.Delete(store.Key, rev(40)) }, Fault, "40_0 is missing"},
		"a row is no key-value":   {func(b *store.Batch) { b.Put(store.Key, rev(41), []byte{0xff}) }, Fault, "revision 41_0"},
		"a row is of no revision": {func(b *store.Batch) { b.Put(store.Key, []byte("zz"), nil) }, Fault, "is not a revision"},
		"a key out of nothing": {
			func(b *store.Batch) { b.Put(store.Key, rev(56), []byte("\x0a\x03new\x10\x05\x18\x38\x20\x07")) }, Fault,
			`key "new": version 7, created at 5, and nothing was there before`,
		},
		"a change of nothing":   {func(b *store.Batch) { b.Put(store.Key, append(rev(56), 't'), []byte("\x0a\x03new")) }, Fault, `deletes "new"`},
		"a lease is unreadable": {func(b *store.Batch) { b.Put(store.Lease, id(5), []byte{0xff}) }, Fault, "bucket lease"},
		"a lease is another's":  {func(b *store.Batch) { b.Put(store.Lease, id(5), []byte{8, 6, 16, 9}) }, Fault, "about another lease"},
		"a lease is gone":       {func(b *store.Batch) { b.Delete(store.Lease, id(1001)) }, Remark, ""},
		"a member is no member": {func(b *store.Batch) { b.Put(store.Members, []byte("zz"), []byte("{}")) }, Fault, "bucket members"},
		"an alarm":              {func(*store.Batch) {}, Doubt, "the alarm NOSPACE of member 4d is raised"},
		"an alarm is none":      {func(b *store.Batch) { b.Put(store.Alarm, []byte{0xff}, nil) }, Fault, "bucket alarm"},
		"a role is none":        {func(b *store.Batch) { b.Put(store.AuthRoles, []byte("r"), []byte{0xff}) }, Fault, "bucket authRoles"},
		"a user has no role":    {func(b *store.Batch) { b.Put(store.AuthUsers, []byte("u"), []byte("\x0a\x01u\x1a\x01x")) }, Doubt, `user "u" has the role "x"`},
		"nobody is root":        {func(b *store.Batch) { b.Put(store.Auth, []byte("authEnabled"), []byte{1}) }, Fault, "no user has the role root"},
		"a later version":       {func(b *store.Batch) { b.Put(store.Cluster, []byte("clusterVersion"), []byte("3.9.0")) }, Fault, "agreed on version 3.9.0"},
		"an unknown bucket":     {func(b *store.Batch) { b.Put("strange", []byte("a"), []byte("b")) }, Remark, "bucket strange"},
		"a compaction of none":  {func(b *store.Batch) { b.Put(store.Meta, []byte("scheduledCompactRev"), []byte("x")) }, Fault, "scheduledCompactRev"},
	} {
		t.Run(name, func(t *testing.T) {
			rows := &store.Batch{}
			c.change(rows)
			r, err := CheckFile(t.Context(), altered(t, whole, store.Alter{Rows: rows, Stamp: store.Stamp{Index: 60, Term: 2}}), Options{})
			must(t, err)
			wantFinding(t, r, c.weight, c.word)
			if r.Sound() != (c.weight != Fault) {
				t.Errorf("sound: %t, %+v", r.Sound(), r.Findings)
			}
		})
	}
}

func TestLogAndDatabaseMustMeet(t *testing.T) {
	dir := lived(t)
	db, log := filepath.Join(dir, "member/snap/db"), filepath.Join(dir, "member/wal")
	good, err := os.ReadFile(db)
	must(t, err)
	check := func(w Weight, word string) {
		t.Helper()
		r, err := CheckMember(t.Context(), options(dir), Options{})
		must(t, err)
		wantFinding(t, r, w, word)
		if w == Fault && r.Sound() {
			t.Errorf("%q is sound", word)
		}
	}
	put := func(a store.Alter) {
		t.Helper()
		must(t, os.Rename(altered(t, db, a), db))
	}
	put(store.Alter{Stamp: store.Stamp{Index: 500, Term: 1}})
	check(Fault, "acknowledged entries are missing")
	must(t, os.WriteFile(db, good, 0o600))
	put(store.Alter{Stamp: store.Stamp{Index: 90, Term: 7}})
	check(Fault, "they are not of one member")
	must(t, os.WriteFile(db, good, 0o600))
	put(store.Alter{Stamp: store.Stamp{Index: 0}, Without: []store.Bucket{store.Key}})
	check(Fault, "those between are lost")
	must(t, os.Remove(db))
	check(Fault, "it is missing")
	must(t, os.WriteFile(db, good, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "member/snap/tmp12"), nil, 0o600))
	check(Remark, "the next start removes it")
	segments, err := filepath.Glob(filepath.Join(log, "*.wal"))
	must(t, err)
	if len(segments) < 3 {
		t.Fatalf("segments %q", segments)
	}
	must(t, os.Rename(segments[1], segments[1]+".away"))
	check(Fault, "is missing between")
	must(t, os.RemoveAll(log))
	check(Fault, "no log")
}
