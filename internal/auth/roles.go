package auth

import (
	"bytes"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/store"
)

// AddRole makes a role that grants nothing.
func (b *Book) AddRole(name string, rows *store.Batch) error {
	if err := newName(name, ErrRoleEmpty); err != nil {
		return err
	}
	if _, exists := b.now.roles.Get(name); exists {
		return ErrRoleExists
	}
	b.setRole(&authpb.Role{Name: []byte(name)}, rows)
	b.commit(rows)
	return nil
}

// DeleteRole removes a role, also from the users who have it.
func (b *Book) DeleteRole(name string, rows *store.Batch) error {
	if b.now.enabled && name == Root {
		return ErrManagement
	}
	if _, ok := b.now.roles.Delete(name); !ok {
		return ErrRoleNotFound
	}
	rows.Delete(store.AuthRoles, []byte(name))
	var changed []*authpb.User
	b.now.users.Scan(func(_ string, u *user) bool {
		if record, had := u.without(name); had {
			changed = append(changed, record)
		}
		return true
	})
	for _, record := range changed {
		b.setUser(record, rows)
	}
	b.commit(rows)
	return nil
}

// Grant adds a permission to a role. The first one with the same key gets the
// new kind if it has the same end, too; otherwise the new one is put in.
func (b *Book) Grant(name string, p *authpb.Permission, rows *store.Batch) error {
	switch {
	case p == nil:
		return ErrPermissionNotGiven
	case !validRange(p.Key, p.RangeEnd):
		return ErrManagement
	}
	r, ok := b.now.roles.Get(name)
	if !ok {
		return ErrRoleNotFound
	}
	byKey := func(a *authpb.Permission, key []byte) int { return bytes.Compare(a.Key, key) }
	changed := proto.CloneOf(r.record)
	at, _ := slices.BinarySearchFunc(changed.KeyPermission, p.Key, byKey)
	if at < len(changed.KeyPermission) && sameRange(changed.KeyPermission[at], p.Key, p.RangeEnd) {
		changed.KeyPermission[at].PermType = p.PermType
	} else {
		added := &authpb.Permission{PermType: p.PermType, Key: p.Key, RangeEnd: p.RangeEnd}
		changed.KeyPermission = append(changed.KeyPermission, added)
		sortPermissions(changed.KeyPermission)
	}
	b.setRole(changed, rows)
	b.commit(rows)
	return nil
}

func validRange(key, end []byte) bool {
	return len(key) > 0 && (len(end) == 0 || bytes.Compare(key, end) < 0 || isOpen(end))
}

func sameRange(p *authpb.Permission, key, end []byte) bool {
	return bytes.Equal(p.Key, key) && bytes.Equal(p.RangeEnd, end)
}

// Revoke takes a permission from a role: every one with exactly this range.
func (b *Book) Revoke(name string, key, end []byte, rows *store.Batch) error {
	r, ok := b.now.roles.Get(name)
	if !ok {
		return ErrRoleNotFound
	}
	left := slices.DeleteFunc(slices.Clone(r.record.KeyPermission), func(p *authpb.Permission) bool { return sameRange(p, key, end) })
	if len(left) == len(r.record.KeyPermission) {
		return ErrPermissionNotGranted
	}
	b.setRole(&authpb.Role{Name: r.record.Name, KeyPermission: left}, rows)
	b.commit(rows)
	return nil
}

// setRole stores a record.
func (b *Book) setRole(record *authpb.Role, rows *store.Batch) {
	b.now.roles.Set(string(record.Name), newRole(record))
	rows.Put(store.AuthRoles, record.Name, mustMarshal(record))
}

// Roles are the names of all roles, in order.
func (v *View) Roles() []string { return v.roles.Keys() }

// Permissions are what a role grants, read-only. The root role grants
// everything, whatever is stored.
func (v *View) Permissions(name string) (granted []*authpb.Permission, ok bool) {
	r, ok := v.roles.Get(name)
	if !ok {
		return nil, false
	}
	if name == Root {
		return []*authpb.Permission{{PermType: authpb.Permission_READWRITE, RangeEnd: []byte{0}}}, true
	}
	return r.record.KeyPermission, true
}
