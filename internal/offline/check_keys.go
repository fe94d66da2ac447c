package offline

import (
	"fmt"
	"maps"
	"slices"

	"kvd/internal/lease"
	"kvd/internal/mvcc"
	"kvd/internal/store"
)

// keys checks the rows of the keyspace, in the order of revisions.
type keys struct {
	c         *checker
	leases    *lease.Book // nil: cannot be read
	compacted int64       // rows up to here may have been removed; -1: never
	newest    map[string]newest
	last      mvcc.Revision // of the row before
	rows      int64
	faults    int
	loose     int // living keys whose lease there is not
}

// newest is what the newest row of a key says.
type newest struct {
	create, main, version, lease int64
	dead                         bool
}

func newKeys(c *checker, leases *lease.Book) *keys {
	return &keys{c: c, leases: leases, compacted: -1, newest: map[string]newest{}}
}

// compaction reads how far the past was compacted.
func (k *keys) compaction(r store.Reader) error {
	for _, name := range []string{"scheduledCompactRev", "finishedCompactRev"} {
		v := r.Value(store.Meta, []byte(name))
		if v == nil {
			continue
		}
		rev, _, err := mvcc.ParseKey(v)
		if err != nil {
			return fmt.Errorf("row %s: %w", name, err)
		}
		k.compacted = max(k.compacted, rev.Main)
	}
	return nil
}

func (k *keys) fault(format string, args ...any) {
	if k.faults++; k.faults <= mostFaults {
		k.c.add(Fault, k.c.bucket(store.Key), k.c.remedy, format, args...)
	}
}

func (k *keys) row(row, value []byte) {
	k.rows++
	rev, dead, err := mvcc.ParseKey(row)
	if err != nil {
		k.fault("%v", err)
		return
	}
	kv, err := mvcc.Parse(value)
	if err != nil {
		k.fault("revision %v: %v", rev, err)
		return
	}
	k.follow(rev)
	k.last = rev
	switch {
	case len(value) == 0: // a restore has raised the revision
		if k.compacted < rev.Main {
			k.fault("revision %v has no value, and is not compacted", rev)
		}
	case len(kv.Key) == 0:
		k.fault("revision %v is of no key", rev)
	case !dead && (kv.Mod != rev.Main || kv.Create < 1 || kv.Create > kv.Mod || kv.Version < 1):
		k.fault("revision %v, key %q: created at %d, changed at %d, version %d cannot be", rev, kv.Key, kv.Create, kv.Mod, kv.Version)
	case rev.Main > k.compacted:
		k.succeed(rev, dead, &kv)
	}
	k.newest[string(kv.Key)] = newest{create: kv.Create, main: rev.Main, version: kv.Version, lease: kv.Lease, dead: dead}
}

// follow checks that no revision is missing behind the compaction.
func (k *keys) follow(rev mvcc.Revision) {
	if rev.Main <= k.compacted {
		return
	}
	want := mvcc.Revision{Main: max(k.last.Main, k.compacted, 1) + 1}
	if rev.Main == k.last.Main {
		want = mvcc.Revision{Main: rev.Main, Sub: k.last.Sub + 1}
	}
	if rev != want {
		k.fault("revision %v follows %v: %v is missing", rev, k.last, want)
	}
}

// succeed checks that a change of a key goes on from the one before.
func (k *keys) succeed(rev mvcc.Revision, dead bool, kv *mvcc.KeyValue) {
	before, ok := k.newest[string(kv.Key)]
	alive := ok && !before.dead
	switch {
	case dead && !alive:
		k.fault("revision %v deletes %q, which there was not", rev, kv.Key)
	case dead:
	case alive && (kv.Create != before.create || kv.Version != before.version+1):
		k.fault("revision %v, key %q: version %d, created at %d follows version %d, created at %d", rev, kv.Key, kv.Version, kv.Create, before.version, before.create)
	case !alive && (kv.Create != rev.Main || kv.Version != 1):
		k.fault("revision %v, key %q: version %d, created at %d, and nothing was there before", rev, kv.Key, kv.Version, kv.Create)
	}
}

// end sums up, and returns how many keys are alive.
func (k *keys) end() (alive int) {
	for _, n := range k.newest {
		if n.dead {
			continue
		}
		alive++
		if n.lease != 0 && k.leases != nil {
			if _, ok := k.leases.Lease(lease.ID(n.lease)); !ok {
				k.loose++
			}
		}
	}
	if k.faults > mostFaults {
		k.c.add(Fault, k.c.bucket(store.Key), k.c.remedy, "and %d more", k.faults-mostFaults)
	}
	if k.loose > 0 {
		k.c.add(Doubt, k.c.bucket(store.Lease), "delete the keys, or put them anew; nothing else will remove them", "%d keys hang on leases that there are not", k.loose)
	}
	return alive
}

// index makes the index of a member and compares it with the rows.
func (k *keys) index(file *store.File, r store.Reader) error {
	made, err := mvcc.Load(mvcc.Options{}, file.Read, r, func(string, int64) {})
	if err != nil {
		return err
	}
	if made.Revision() != k.c.Revision || made.Compacted() != k.compacted {
		k.fault("the index is at revision %d, compacted at %d; the rows say %d and %d", made.Revision(), made.Compacted(), k.c.Revision, k.compacted)
	}
	names := slices.Sorted(maps.Keys(k.newest))
	names = slices.DeleteFunc(names, func(name string) bool { return k.newest[name].dead })
	at := 0
	made.View().Items(mvcc.Span{Key: []byte{}, End: []byte{0}}, func(i mvcc.Item) bool {
		if at == len(names) {
			at++
			return false
		}
		n := k.newest[names[at]]
		if n.main != i.Mod() || n.create != i.Create() || n.version != i.Version() || n.lease != i.Lease() {
			k.fault("the index does not say of key %q what its newest row says", names[at])
		}
		at++
		return true
	})
	if at != len(names) {
		k.fault("the index has other keys than the rows, which have %d", len(names))
	}
	return nil
}
