package auth

import (
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/store"
)

// The methods that change users take over what they are given. An error means
// that nothing has changed.

// AddUser makes a user. Options may be nil; with no_password the password is
// not kept.
func (b *Book) AddUser(name string, password []byte, options *authpb.UserAddOptions, rows *store.Batch) error {
	if err := newName(name, ErrUserEmpty); err != nil {
		return err
	}
	if _, exists := b.now.users.Get(name); exists {
		return ErrUserExists
	}
	if options == nil {
		options = &authpb.UserAddOptions{}
	}
	if options.NoPassword {
		password = nil
	}
	b.setUser(&authpb.User{Name: []byte(name), Password: password, Options: options}, rows)
	b.commit(rows)
	return nil
}

func newName(name string, empty error) error {
	switch {
	case name == "":
		return empty
	case len(name) > MaxName:
		return fmt.Errorf("%w: %d bytes, at most %d", ErrNameTooLong, len(name), MaxName)
	}
	return nil
}

// DeleteUser removes a user.
func (b *Book) DeleteUser(name string, rows *store.Batch) error {
	if b.now.enabled && name == Root {
		return ErrManagement
	}
	if _, ok := b.now.users.Delete(name); !ok {
		return ErrUserNotFound
	}
	rows.Delete(store.AuthUsers, []byte(name))
	b.commit(rows)
	return nil
}

// SetPassword gives a user another password; one without a password stays so.
func (b *Book) SetPassword(name string, password []byte, rows *store.Batch) error {
	u, ok := b.now.users.Get(name)
	if !ok {
		return ErrUserNotFound
	}
	if u.record.Options.GetNoPassword() {
		password = nil
	}
	b.setUser(&authpb.User{Name: []byte(name), Password: password, Roles: u.record.Roles, Options: u.record.Options}, rows)
	b.commit(rows)
	return nil
}

// GrantRole gives a user a role. One that the user has already changes nothing.
func (b *Book) GrantRole(name, role string, rows *store.Batch) error {
	u, ok := b.now.users.Get(name)
	if !ok {
		return ErrUserNotFound
	}
	if _, ok := b.now.roles.Get(role); !ok && role != Root {
		return ErrRoleNotFound
	}
	if slices.Contains(u.record.Roles, role) {
		return nil
	}
	changed := proto.CloneOf(u.record) // with what a later version may have put there
	changed.Roles = append(changed.Roles, role)
	slices.Sort(changed.Roles)
	b.setUser(changed, rows)
	b.commit(rows)
	return nil
}

// RevokeRole takes a role from a user.
func (b *Book) RevokeRole(name, role string, rows *store.Batch) error {
	if b.now.enabled && name == Root && role == Root {
		return ErrManagement
	}
	u, ok := b.now.users.Get(name)
	if !ok {
		return ErrUserNotFound
	}
	changed, had := u.without(role)
	if !had {
		return ErrRoleNotGranted
	}
	b.setUser(changed, rows)
	b.commit(rows)
	return nil
}

// without is the user's record without a role.
func (u *user) without(role string) (*authpb.User, bool) {
	roles := slices.DeleteFunc(slices.Clone(u.record.Roles), func(r string) bool { return r == role })
	changed := &authpb.User{Name: u.record.Name, Password: u.record.Password, Options: u.record.Options, Roles: roles}
	return changed, len(roles) < len(u.record.Roles)
}

// setUser stores a record.
func (b *Book) setUser(record *authpb.User, rows *store.Batch) {
	b.now.users.Set(string(record.Name), newUser(record))
	rows.Put(store.AuthUsers, record.Name, mustMarshal(record))
}

// mustMarshal encodes a record. What it is made of came decoded, so it encodes.
func mustMarshal(m proto.Message) []byte {
	row, err := proto.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("auth: encode %v: %v", m, err))
	}
	return row
}

// Users are the names of all users, in order.
func (v *View) Users() []string { return v.users.Keys() }

// RolesOf are the roles of a user, in order; read-only.
func (v *View) RolesOf(name string) (roles []string, ok bool) {
	u, ok := v.users.Get(name)
	if !ok {
		return nil, false
	}
	return u.record.Roles, true
}

// Password is what is kept of a user's password; read-only. The errors are
// ErrFailed for a user that is not there, and ErrNoPassword.
func (v *View) Password(name string) ([]byte, error) {
	u, ok := v.users.Get(name)
	switch {
	case !ok:
		return nil, ErrFailed
	case u.record.Options.GetNoPassword():
		return nil, ErrNoPassword
	}
	return u.record.Password, nil
}
