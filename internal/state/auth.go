package state

import (
	"encoding/base64"
	"errors"
	"fmt"
	"iter"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protowire"

	"kvd/internal/auth"
	"kvd/internal/lease"
)

// accesses are the ranges that a command touches, in the order in which etcd
// looks at them. No other code knows which those are. A nested transaction
// counts with both branches. KeysOf gives the keys of a lease.
func accesses(r *Request, keysOf func(lease.ID) []string) iter.Seq[auth.Access] {
	return func(yield func(auth.Access) bool) {
		w := walker{keysOf, yield}
		switch {
		case r.Put != nil:
			w.put(r.Put)
		case r.Txn != nil:
			w.txn(r.Txn)
		case r.DeleteRange != nil:
			d := r.DeleteRange
			_ = w.write(d.Key, d.RangeEnd) && (!d.PrevKv || w.read(d.Key, d.RangeEnd))
		case r.Range != nil:
			w.read(r.Range.Key, r.Range.RangeEnd)
		case r.LeaseRevoke != nil:
			w.lease(r.LeaseRevoke.ID)
		}
	}
}

// walker visits accesses until yield has enough, which its methods report by
// false.
type walker struct {
	keysOf func(lease.ID) []string
	yield  func(auth.Access) bool
}

func (w *walker) read(key, end []byte) bool { return w.yield(auth.Access{Key: key, End: end}) }

func (w *walker) write(key, end []byte) bool {
	return w.yield(auth.Access{Key: key, End: end, Write: true})
}

// lease visits the keys that go when a lease ends: who decides over it, decides
// over them.
func (w *walker) lease(id int64) bool {
	if id == 0 {
		return true
	}
	for _, key := range w.keysOf(lease.ID(id)) {
		if !w.yield(auth.Access{Key: []byte(key), Write: true, OfLease: true}) {
			return false
		}
	}
	return true
}

func (w *walker) put(r *pb.PutRequest) bool {
	return w.write(r.Key, nil) && w.lease(r.Lease) && (!r.PrevKv || w.read(r.Key, nil))
}

func (w *walker) txn(r *pb.TxnRequest) bool {
	for _, c := range r.Compare {
		if !w.read(c.Key, c.RangeEnd) {
			return false
		}
	}
	for _, ops := range [...][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if !w.op(op) {
				return false
			}
		}
	}
	return true
}

func (w *walker) op(op *pb.RequestOp) bool {
	switch o := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return o.RequestRange == nil || w.read(o.RequestRange.Key, o.RequestRange.RangeEnd)
	case *pb.RequestOp_RequestPut:
		return o.RequestPut == nil || w.put(o.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		d := o.RequestDeleteRange
		return d == nil || (!d.PrevKv || w.read(d.Key, d.RangeEnd)) && w.write(d.Key, d.RangeEnd)
	case *pb.RequestOp_RequestTxn:
		return o.RequestTxn == nil || w.txn(o.RequestTxn)
	}
	return true
}

// Permit reports why the caller may not have what a request asks for, in this
// moment.
func (v *View) Permit(c auth.Caller, r *Request) error {
	if !v.Users.Enabled() {
		return nil
	}
	return v.Users.Permit(c, accesses(r, v.Leases.Keys))
}

// PermitLeases is Permit for the keys of leases, to be read or written.
func (v *View) PermitLeases(c auth.Caller, write bool, ids ...lease.ID) error {
	if !v.Users.Enabled() {
		return nil
	}
	return v.Users.Permit(c, func(yield func(auth.Access) bool) {
		for _, id := range ids {
			for _, key := range v.Leases.Keys(id) {
				if !yield(auth.Access{Key: []byte(key), Write: write, OfLease: true}) {
					return
				}
			}
		}
	})
}

// permit is the check that decides: it is made when a command is applied, with
// the name that the entry carries. A command that carries none and needs one is
// refused.
func (m *Machine) permit(r *Request) error {
	users := m.users.Now()
	if !users.Enabled() {
		return nil
	}
	c := auth.Caller{Name: r.Header.GetUsername(), Revision: r.Header.GetAuthRevision()}
	if managesUsers(r) {
		return users.Admin(c)
	}
	switch {
	case r.AuthUserGet != nil:
		if err := users.Admin(c); err != nil && r.AuthUserGet.Name != c.Name {
			return err
		}
	case r.AuthRoleGet != nil:
		if err := users.Admin(c); err != nil && !users.Has(c.Name, r.AuthRoleGet.Role) {
			return err
		}
	}
	return users.Permit(c, accesses(r, m.leases.Keys))
}

// managesUsers reports whether a command is an administrator's alone.
func managesUsers(r *Request) bool {
	return r.AuthEnable != nil || r.AuthDisable != nil ||
		r.AuthUserAdd != nil || r.AuthUserDelete != nil || r.AuthUserChangePassword != nil ||
		r.AuthUserGrantRole != nil || r.AuthUserRevokeRole != nil ||
		r.AuthRoleAdd != nil || r.AuthRoleDelete != nil ||
		r.AuthRoleGrantPermission != nil || r.AuthRoleRevokePermission != nil ||
		r.AuthUserList != nil || r.AuthRoleList != nil
}

// authenticate makes a token for a user whose password has been checked
// already: every member hears of it.
func (m *Machine) authenticate(index uint64, r *pb.InternalAuthenticateRequest) Outcome {
	users := m.users.Now()
	if !users.Enabled() {
		return Outcome{Err: auth.ErrNotEnabled}
	}
	if _, err := users.Password(r.Name); err != nil {
		return Outcome{Err: auth.ErrFailed}
	}
	if key, ok := CarriedKey(r); ok {
		m.users.OfferKey(key, m.batch)
	}
	// Etcd numbers a token by the entry before the one that makes it.
	token := fmt.Sprintf("%s.%d", r.SimpleToken, index-1)
	return Outcome{
		Reply:  &TokenReply{Revision: m.keys.Revision(), Token: token, AuthRevision: users.Revision()},
		Tokens: []TokenChange{{User: r.Name, Token: token}},
	}
}

// fieldTokenKey is a field of InternalAuthenticateRequest that etcd does not know
// and passes over: members of both kinds apply the same entry.
const fieldTokenKey = 52379

// CarryKey puts a token key into a request to authenticate.
func CarryKey(r *pb.InternalAuthenticateRequest, key auth.TokenKey) {
	b := protowire.AppendTag(nil, fieldTokenKey, protowire.BytesType)
	r.ProtoReflect().SetUnknown(protowire.AppendBytes(b, key.Encode()))
}

// CarriedKey finds the token key in a request; one from etcd has none.
func CarriedKey(r *pb.InternalAuthenticateRequest) (key auth.TokenKey, ok bool) {
	for b := []byte(r.ProtoReflect().GetUnknown()); len(b) > 0; {
		num, typ, n := protowire.ConsumeField(b)
		if n < 0 {
			return key, false
		}
		if num == fieldTokenKey && typ == protowire.BytesType {
			_, _, head := protowire.ConsumeTag(b)
			value, _ := protowire.ConsumeBytes(b[head:])
			return auth.DecodeTokenKey(value)
		}
		b = b[n:]
	}
	return key, false
}

// manage runs a command that changes users and roles. False means that the
// command is another one.
func (m *Machine) manage(r *Request) (out Outcome, known bool) {
	u, rows := m.users, m.batch
	var err error
	switch {
	case r.AuthEnable != nil:
		err = u.Enable(rows)
	case r.AuthDisable != nil:
		if u.Disable(rows) {
			out.Tokens = []TokenChange{{}}
		}
	case r.AuthUserAdd != nil:
		err = m.addUser(r.AuthUserAdd)
	case r.AuthUserDelete != nil:
		err = u.DeleteUser(r.AuthUserDelete.Name, rows)
		out.Tokens = []TokenChange{{User: r.AuthUserDelete.Name}}
	case r.AuthUserChangePassword != nil:
		err = m.setPassword(r.AuthUserChangePassword)
		out.Tokens = []TokenChange{{User: r.AuthUserChangePassword.Name}}
	case r.AuthUserGrantRole != nil:
		err = u.GrantRole(r.AuthUserGrantRole.User, r.AuthUserGrantRole.Role, rows)
	case r.AuthUserRevokeRole != nil:
		err = u.RevokeRole(r.AuthUserRevokeRole.Name, r.AuthUserRevokeRole.Role, rows)
	case r.AuthRoleAdd != nil:
		err = u.AddRole(r.AuthRoleAdd.Name, rows)
	case r.AuthRoleDelete != nil:
		err = u.DeleteRole(r.AuthRoleDelete.Role, rows)
	case r.AuthRoleGrantPermission != nil:
		err = u.Grant(r.AuthRoleGrantPermission.Name, r.AuthRoleGrantPermission.Perm, rows)
	case r.AuthRoleRevokePermission != nil:
		p := r.AuthRoleRevokePermission
		err = u.Revoke(p.Role, p.Key, p.RangeEnd, rows)
	case r.AuthStatus != nil, r.AuthUserGet != nil, r.AuthRoleGet != nil, r.AuthUserList != nil, r.AuthRoleList != nil:
		// Reads that a member of etcd asked; they change nothing.
	default:
		return out, false
	}
	if err != nil {
		return Outcome{Err: err}, true
	}
	out.Reply = m.done()
	return out, true
}

func (m *Machine) addUser(r *pb.AuthUserAddRequest) error {
	var password []byte
	if r.Name != "" && !r.Options.GetNoPassword() {
		var err error
		if password, err = m.password(r.Password, r.HashedPassword); err != nil {
			return err
		}
	}
	return m.users.AddUser(r.Name, password, r.Options, m.batch)
}

func (m *Machine) setPassword(r *pb.AuthUserChangePasswordRequest) error {
	if _, known := m.users.Now().RolesOf(r.Name); !known {
		return auth.ErrUserNotFound
	}
	var password []byte
	if _, err := m.users.Now().Password(r.Name); !errors.Is(err, auth.ErrNoPassword) {
		if password, err = m.password(r.Password, r.HashedPassword); err != nil {
			return err
		}
	}
	return m.users.SetPassword(r.Name, password, m.batch)
}

// password is what is kept of one. The members before etcd 3.5 put it into the
// log as it was, for each to hash; they cannot be equal then.
func (m *Machine) password(plain, hashed string) ([]byte, error) {
	if plain != "" && hashed == "" {
		if m.options.HashPassword == nil {
			return nil, auth.ErrNoPassword
		}
		return m.options.HashPassword(plain)
	}
	kept, err := base64.StdEncoding.DecodeString(hashed)
	if err != nil {
		return nil, auth.ErrNoPassword
	}
	return kept, nil
}
