package auth

import (
	"bytes"
	"iter"
	"slices"
	"sort"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/pkg/v3/adt"
)

// Caller is who asks: a name, and the revision of users and roles that the
// name was verified at. The zero value is somebody without a name.
type Caller struct {
	Name     string
	Revision uint64
}

// Access is one range that a request touches. End is as in a request: empty for
// a single key, one zero byte for everything from Key on.
type Access struct {
	Key, End []byte
	Write    bool
	// OfLease says that the key is touched because a lease holds it. Then an
	// administrator is let through whatever the revision.
	OfLease bool
}

// Admin reports why the caller is not an administrator. It does not look at the
// caller's revision.
func (v *View) Admin(c Caller) error {
	if !v.enabled {
		return nil
	}
	if c.Name == "" {
		return ErrUserEmpty
	}
	u, ok := v.users.Get(c.Name)
	switch {
	case !ok:
		return ErrUserNotFound
	case !u.admin:
		return ErrDenied
	}
	return nil
}

// Permit reports the first access that the caller may not have.
func (v *View) Permit(c Caller, all iter.Seq[Access]) error {
	if !v.enabled {
		return nil
	}
	u, known := v.users.Get(c.Name)
	for a := range all {
		switch {
		case a.OfLease && known && u.admin:
		case c.Revision == 0:
			return ErrUserEmpty
		case c.Revision < v.revision:
			return ErrOldRevision
		case !known:
			return ErrDenied
		case u.admin:
		case !v.covers(u, a):
			return ErrDenied
		}
	}
	return nil
}

// Has reports whether a user has a role.
func (v *View) Has(name, role string) bool {
	u, ok := v.users.Get(name)
	return ok && slices.Contains(u.record.Roles, role)
}

// span is the keys from <= key < to; a nil to is the end of all keys.
type span struct{ from, to []byte }

// spans are disjoint and ascending, with a gap between any two.
type spans []span

func isOpen(end []byte) bool { return len(end) == 1 && end[0] == 0 }

// spanOf translates a range of a request or a permission.
func spanOf(key, end []byte) span {
	switch {
	case len(end) == 0:
		return span{key, append(slices.Clip(slices.Clone(key)), 0)}
	case isOpen(end):
		return span{key, nil}
	default:
		return span{key, end}
	}
}

// before compares a start with an end.
func before(from, to []byte) bool { return to == nil || bytes.Compare(from, to) < 0 }

// laterEnd compares two ends.
func laterEnd(a, b []byte) bool {
	return b != nil && (a == nil || bytes.Compare(a, b) > 0)
}

// grantsKind reports whether a permission is one to read or to write.
func grantsKind(p *authpb.Permission, write bool) bool {
	if write {
		return p.PermType == authpb.Permission_WRITE || p.PermType == authpb.Permission_READWRITE
	}
	return p.PermType == authpb.Permission_READ || p.PermType == authpb.Permission_READWRITE
}

// granted are the spans of the permissions to read or to write, in the order of
// their starts.
func granted(permissions []*authpb.Permission, write bool) []span {
	var out []span
	for _, p := range permissions {
		if grantsKind(p, write) && len(p.Key) > 0 {
			out = append(out, spanOf(p.Key, p.RangeEnd))
		}
	}
	slices.SortFunc(out, func(a, b span) int { return bytes.Compare(a.from, b.from) })
	return out
}

// grants joins what touches.
func grants(permissions []*authpb.Permission, write bool) spans {
	var out spans
	for _, s := range granted(permissions, write) {
		if !before(s.from, s.to) {
			continue
		}
		if n := len(out); n > 0 && (out[n-1].to == nil || bytes.Compare(s.from, out[n-1].to) <= 0) {
			if laterEnd(s.to, out[n-1].to) {
				out[n-1].to = s.to
			}
			continue
		}
		out = append(out, s)
	}
	return out
}

// holding finds the span that a key is in.
func (all spans) holding(key []byte) (span, bool) {
	i := sort.Search(len(all), func(i int) bool { return bytes.Compare(all[i].from, key) > 0 })
	if i == 0 || !before(key, all[i-1].to) {
		return span{}, false
	}
	return all[i-1], true
}

// covers reports whether the roles of a user, all together, grant an access.
func (v *View) covers(u *user, a Access) bool {
	if len(a.End) == 0 {
		_, ok := v.furthest(u, a.Key, a.Write)
		return ok
	}
	want := spanOf(a.Key, a.End)
	if !before(want.from, want.to) {
		return v.coversNothing(u, want, a.Write)
	}
	for at := want.from; ; {
		to, ok := v.furthest(u, at, a.Write)
		if !ok {
			return false
		}
		if !laterEnd(want.to, to) {
			return true
		}
		at = to
	}
}

// furthest is how far the user may go on from a key, by one role; false if not
// at all.
func (v *View) furthest(u *user, key []byte, write bool) (to []byte, ok bool) {
	for _, name := range u.record.Roles {
		r, known := v.roles.Get(name)
		if !known {
			continue
		}
		all := r.read
		if write {
			all = r.write
		}
		s, held := all.holding(key)
		if held && (!ok || laterEnd(s.to, to)) {
			to, ok = s.to, true
		}
	}
	return to, ok
}

// coversNothing judges a range whose end is not behind its start. There is no
// key in it, but whether it is granted decides whether the rest of a transaction
// runs, and members must agree with etcd's. What etcd says of such a range
// depends on the shape of its tree, so its tree is asked.
func (v *View) coversNothing(u *user, want span, write bool) bool {
	tree := adt.NewIntervalTree()
	for _, name := range u.record.Roles {
		r, known := v.roles.Get(name)
		if !known {
			continue
		}
		for _, p := range r.record.KeyPermission {
			if grantsKind(p, write) {
				s := spanOf(p.Key, p.RangeEnd)
				tree.Insert(adt.NewBytesAffineInterval(s.from, s.to), struct{}{})
			}
		}
	}
	return tree.Contains(adt.NewBytesAffineInterval(want.from, want.to))
}

// sortPermissions sorts by key alone. Permissions of the same key come into the
// order that this very algorithm makes, as in etcd: the bytes of the row are
// compared between members.
func sortPermissions(all []*authpb.Permission) { sort.Sort(byKey(all)) }

type byKey []*authpb.Permission

func (p byKey) Len() int           { return len(p) }
func (p byKey) Less(i, j int) bool { return bytes.Compare(p[i].Key, p[j].Key) < 0 }
func (p byKey) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }
