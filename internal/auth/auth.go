// Package auth keeps the users and roles of the cluster and says what a caller
// may do: whether a range may be read or written, and who is an administrator.
// Who a caller is, it does not know: names come in, and passwords are opaque
// bytes. It has no clock, no randomness and no goroutine. The machine alone may
// change the Book; a View is for anyone.
package auth

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/btree"
	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/store"
)

// Why a change of users and roles, or a request of a user, is refused.
var (
	ErrNotEnabled           = errors.New("authentication is not enabled")
	ErrRootUserMissing      = errors.New("root user does not exist")
	ErrRootRoleMissing      = errors.New("root user does not have root role")
	ErrUserExists           = errors.New("user name already exists")
	ErrUserEmpty            = errors.New("user name is empty")
	ErrUserNotFound         = errors.New("user name not found")
	ErrRoleExists           = errors.New("role name already exists")
	ErrRoleNotFound         = errors.New("role name not found")
	ErrRoleEmpty            = errors.New("role name is empty")
	ErrPermissionNotGiven   = errors.New("permission not given")
	ErrRoleNotGranted       = errors.New("role is not granted to the user")
	ErrPermissionNotGranted = errors.New("permission is not granted to the role")
	// ErrManagement means that a change would lock everybody out, or makes no
	// sense.
	ErrManagement = errors.New("invalid auth management")
	// ErrDenied means that the caller has no permission.
	ErrDenied = errors.New("permission denied")
	// ErrOldRevision means that users and roles have changed since the caller
	// was last authenticated.
	ErrOldRevision = errors.New("revision of auth store is old")
	// ErrFailed means that the name or the password is wrong.
	ErrFailed = errors.New("authentication failed, invalid user ID or password")
	// ErrNoPassword means that the user has no password to log in with.
	ErrNoPassword = errors.New("authentication failed, password was given for no password user")
	// ErrNameTooLong means that a name does not fit into a row's key.
	ErrNameTooLong = errors.New("name is too long")
)

// Root is the name of the user that must exist, and of the role that may do
// everything.
const Root = "root"

// MaxName is the longest name of a user or role in bytes: what bbolt takes as a
// key.
const MaxName = 32768

// Rows of bucket auth.
const (
	enabledKey  = "authEnabled"
	revisionKey = "authRevision"
)

// View is users and roles at one moment. It never changes and is for any
// goroutine.
type View struct {
	enabled  bool
	revision uint64
	users    *btree.Map[string, *user]
	roles    *btree.Map[string, *role]
	keys     []TokenKey // replaced, not edited
}

// Book is users and roles as they are now.
type Book struct {
	now   View
	floor int64 // no token key made until then is taken; Unix seconds
	shown *View // the last one given out; nil when something has changed since
}

// user is a stored user. It is replaced, not edited.
type user struct {
	record *authpb.User
	admin  bool // has the root role
}

// role is a stored role and what it grants. It is replaced, not edited.
type role struct {
	record *authpb.Role
	read   spans
	write  spans
}

func newUser(record *authpb.User) *user {
	return &user{record: record, admin: slices.Contains(record.Roles, Root)}
}

func newRole(record *authpb.Role) *role {
	return &role{
		record: record,
		read:   grants(record.KeyPermission, false),
		write:  grants(record.KeyPermission, true),
	}
}

// Load reads the book. A store that was never written has authentication off
// and revision 0.
func Load(r store.Reader) (*Book, error) {
	b := &Book{now: View{users: btree.NewMap[string, *user](8), roles: btree.NewMap[string, *role](8)}}
	switch v := r.Value(store.Auth, []byte(enabledKey)); {
	case len(v) == 0:
	case len(v) == 1 && v[0] <= 1:
		b.now.enabled = v[0] == 1
	default:
		return nil, fmt.Errorf("load auth: row %s holds %x, want 00 or 01", enabledKey, v)
	}
	if v := r.Value(store.Auth, []byte(revisionKey)); v != nil {
		if len(v) != 8 {
			return nil, fmt.Errorf("load auth: row %s has %d bytes, want 8", revisionKey, len(v))
		}
		b.now.revision = binary.BigEndian.Uint64(v)
	}
	if err := b.loadUsers(r); err != nil {
		return nil, err
	}
	if err := b.loadRoles(r); err != nil {
		return nil, err
	}
	return b, b.loadTokenKeys(r)
}

func (b *Book) loadUsers(r store.Reader) (err error) {
	r.Scan(store.AuthUsers, nil, nil, func(key, value []byte) bool {
		record := &authpb.User{}
		if err = proto.Unmarshal(value, record); err != nil {
			err = fmt.Errorf("load user %q: %w", key, err)
			return false
		}
		b.now.users.Set(string(key), newUser(record))
		return true
	})
	return err
}

func (b *Book) loadRoles(r store.Reader) (err error) {
	r.Scan(store.AuthRoles, nil, nil, func(key, value []byte) bool {
		record := &authpb.Role{}
		if err = proto.Unmarshal(value, record); err != nil {
			err = fmt.Errorf("load role %q: %w", key, err)
			return false
		}
		b.now.roles.Set(string(key), newRole(record))
		return true
	})
	return err
}

// Begin gives a store that was never written its first revision, as etcd does at
// its first start.
func (b *Book) Begin(rows *store.Batch) {
	if b.now.revision == 0 {
		b.commit(rows)
	}
}

// Now asks the book itself. What it returns changes with the book, and is for
// whoever may change that.
func (b *Book) Now() *View { return &b.now }

// View returns users and roles as they are now.
func (b *Book) View() *View {
	if b.shown == nil {
		b.shown = &View{enabled: b.now.enabled, revision: b.now.revision, users: b.now.users.Copy(), roles: b.now.roles.Copy(), keys: b.now.keys}
	}
	return b.shown
}

// commit counts a change.
func (b *Book) commit(rows *store.Batch) {
	b.shown = nil
	b.now.revision++
	rows.Put(store.Auth, []byte(revisionKey), binary.BigEndian.AppendUint64(nil, b.now.revision))
}

// Enable has requests checked from now on. The root user must be there, with
// the root role; the role itself need not.
func (b *Book) Enable(rows *store.Batch) error {
	if b.now.enabled {
		return nil
	}
	u, ok := b.now.users.Get(Root)
	switch {
	case !ok:
		return ErrRootUserMissing
	case !u.admin:
		return ErrRootRoleMissing
	}
	b.now.enabled, b.shown = true, nil
	rows.Put(store.Auth, []byte(enabledKey), []byte{1})
	return nil
}

// Disable ends checking. It reports whether requests were checked before.
func (b *Book) Disable(rows *store.Batch) bool {
	if !b.now.enabled {
		return false
	}
	b.now.enabled = false
	rows.Put(store.Auth, []byte(enabledKey), []byte{0})
	b.dropKeys(rows)
	b.commit(rows)
	return true
}

// Enabled reports whether requests must be checked.
func (v *View) Enabled() bool { return v.enabled }

// Revision counts the changes to users and roles; 0 in a store that was never
// written.
func (v *View) Revision() uint64 { return v.revision }
