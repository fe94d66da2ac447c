package lease

import "github.com/tidwall/btree"

// View is the leases of one moment. It never changes and is for any goroutine.
type View struct {
	leases *btree.Map[ID, Lease]
	keys   *btree.BTreeG[attachment]
}

// Lease finds a lease.
func (v View) Lease(id ID) (Lease, bool) { return v.leases.Get(id) }

// Keys returns the keys of a lease in key order.
func (v View) Keys(id ID) []string { return keysOf(v.keys, id) }

// All returns every lease, by ID.
func (v View) All() []Lease {
	all := make([]Lease, 0, v.leases.Len())
	v.leases.Scan(func(_ ID, l Lease) bool {
		all = append(all, l)
		return true
	})
	return all
}

// Len is the number of leases.
func (v View) Len() int { return v.leases.Len() }

func keysOf(tree *btree.BTreeG[attachment], id ID) []string {
	var keys []string
	tree.Ascend(attachment{id: id}, func(a attachment) bool {
		if a.id != id {
			return false
		}
		keys = append(keys, a.key)
		return true
	})
	return keys
}
