package auth

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/store"
)

// kept is a book and what it has stored.
type kept struct {
	*Book
	t    *testing.T
	disk *store.Mem
}

func newKept(t *testing.T) *kept {
	k := &kept{t: t, disk: store.NewMem()}
	k.reload()
	return k
}

// reload reads the book from what was stored.
func (k *kept) reload() {
	k.t.Helper()
	r, err := k.disk.Read()
	if err != nil {
		k.t.Fatal(err)
	}
	defer r.Close()
	if k.Book, err = Load(r); err != nil {
		k.t.Fatal(err)
	}
}

// do makes a change and stores it.
func (k *kept) do(change func(rows *store.Batch) error) error {
	k.t.Helper()
	var rows store.Batch
	err := change(&rows)
	if err != nil && rows.Len() > 0 {
		k.t.Errorf("refused with %v, and yet there are rows", err)
	}
	if fault := k.disk.Commit(store.Stamp{}, &rows); fault != nil {
		k.t.Fatal(fault)
	}
	return err
}

func (k *kept) must(changes ...func(rows *store.Batch) error) {
	k.t.Helper()
	for i, c := range changes {
		if err := k.do(c); err != nil {
			k.t.Fatalf("change %d: %v", i, err)
		}
	}
}

// enabled is a book with root, and ann who has the role r.
func enabled(t *testing.T) *kept {
	k := newKept(t)
	k.must(
		func(rows *store.Batch) error { return k.AddUser(Root, []byte("x"), nil, rows) },
		func(rows *store.Batch) error { return k.GrantRole(Root, Root, rows) },
		func(rows *store.Batch) error { return k.AddUser("ann", []byte("y"), nil, rows) },
		func(rows *store.Batch) error { return k.AddRole("r", rows) },
		func(rows *store.Batch) error { return k.GrantRole("ann", "r", rows) },
		func(rows *store.Batch) error { return k.Enable(rows) },
	)
	return k
}

func permission(kind authpb.Permission_Type, key, end string) *authpb.Permission {
	return &authpb.Permission{PermType: kind, Key: []byte(key), RangeEnd: []byte(end)}
}

func one(a Access) func(func(Access) bool) {
	return func(yield func(Access) bool) { yield(a) }
}

// Over four letters every key up to length two is asked for, and every range
// between them: a range is allowed if and only if all its keys are, and there is
// no longer key between two of them that is not.
func TestARangeIsAllowedIfAllItsKeysAre(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 2))
	var keys []string
	for _, a := range "abcd" {
		keys = append(keys, string(a))
		for _, b := range "abcd" {
			keys = append(keys, string(a)+string(b))
		}
	}
	ends := append([]string{"\x00"}, keys...)
	for range 30 {
		k := enabled(t)
		k.must(func(rows *store.Batch) error { return k.AddRole("s", rows) }, func(rows *store.Batch) error { return k.GrantRole("ann", "s", rows) })
		for range random.IntN(8) {
			p := permission(authpb.Permission_Type(random.IntN(3)), keys[random.IntN(len(keys))], append(ends, "")[random.IntN(len(ends)+1)])
			role := []string{"r", "s"}[random.IntN(2)]
			if err := k.do(func(rows *store.Batch) error { return k.Grant(role, p, rows) }); err != nil && !errors.Is(err, ErrManagement) {
				t.Fatal(err)
			}
		}
		granted := slices.Concat(k.records("r"), k.records("s"))
		v := k.View()
		ann := Caller{"ann", v.Revision()}
		for _, write := range []bool{false, true} {
			for _, key := range keys {
				allowed := v.Permit(ann, one(Access{Key: []byte(key), Write: write})) == nil
				if want := coversKey(granted, key, write); allowed != want {
					t.Fatalf("%v: %q, write %v: %v", granted, key, write, allowed)
				}
				for _, end := range ends {
					if end <= key && end != "\x00" {
						continue
					}
					allowed := v.Permit(ann, one(Access{Key: []byte(key), End: []byte(end), Write: write})) == nil
					if want := coversRange(granted, key, end, write); allowed != want {
						t.Fatalf("%v: [%q, %q), write %v: %v", granted, key, end, write, allowed)
					}
				}
			}
		}
	}
}

func (k *kept) records(role string) []*authpb.Permission {
	granted, _ := k.Now().Permissions(role)
	return granted
}

func coversKey(granted []*authpb.Permission, key string, write bool) bool {
	return slices.ContainsFunc(granted, func(p *authpb.Permission) bool {
		if !grantsKind(p, write) {
			return false
		}
		from, to := string(p.Key), string(p.RangeEnd)
		return from == key || to != "" && from <= key && (to == "\x00" || key < to)
	})
}

// coversRange looks at the places where an answer can change: the starts and
// ends of what is granted, and right behind single keys.
func coversRange(granted []*authpb.Permission, key, end string, write bool) bool {
	open := end == "\x00"
	places := []string{key}
	for _, p := range granted {
		places = append(places, string(p.Key), string(p.Key)+"\x00", string(p.RangeEnd))
	}
	if open {
		places = append(places, "\xff\xff")
	}
	for _, at := range places {
		if at >= key && (open || at < end) && !coversKey(granted, at, write) {
			return false
		}
	}
	return true
}

func TestWhoMayIsDecidedInEtcdsOrder(t *testing.T) {
	k := enabled(t)
	k.must(func(rows *store.Batch) error { return k.Grant("r", permission(authpb.READ, "a", "b"), rows) })
	v := k.View()
	now := v.Revision()
	read, ofLease := Access{Key: []byte("a")}, Access{Key: []byte("z"), Write: true, OfLease: true}
	for _, c := range []struct {
		who    Caller
		access Access
		want   error
	}{
		{Caller{}, read, ErrUserEmpty},
		{Caller{"ann", 0}, read, ErrUserEmpty},
		{Caller{"ann", now - 1}, read, ErrOldRevision},
		{Caller{"ann", now}, read, nil},
		{Caller{"ann", now + 1}, read, nil},
		{Caller{"ann", now}, Access{Key: []byte("a"), Write: true}, ErrDenied},
		{Caller{"ann", now}, ofLease, ErrDenied},
		{Caller{"none", now}, read, ErrDenied},
		{Caller{"none", now - 1}, read, ErrOldRevision},
		{Caller{Root, now}, ofLease, nil},
		{Caller{Root, now - 1}, read, ErrOldRevision},
		{Caller{Root, now - 1}, ofLease, nil}, // as an administrator, who is known by name alone
	} {
		if err := v.Permit(c.who, one(c.access)); !errors.Is(err, c.want) {
			t.Errorf("%v: %+v: %v, want %v", c.who, c.access, err, c.want)
		}
	}
	for who, want := range map[string]error{"": ErrUserEmpty, "none": ErrUserNotFound, "ann": ErrDenied, Root: nil} {
		if err := v.Admin(Caller{Name: who}); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", who, err, want)
		}
	}
}

func TestTheLastAdministratorStays(t *testing.T) {
	k := enabled(t)
	for name, change := range map[string]func(*store.Batch) error{
		"delete root":      func(rows *store.Batch) error { return k.DeleteUser(Root, rows) },
		"delete root role": func(rows *store.Batch) error { return k.DeleteRole(Root, rows) },
		"revoke root":      func(rows *store.Batch) error { return k.RevokeRole(Root, Root, rows) },
	} {
		before := k.Now().Revision()
		if err := k.do(change); !errors.Is(err, ErrManagement) || k.Now().Revision() != before {
			t.Errorf("%s: %v", name, err)
		}
	}
	k.must(func(rows *store.Batch) error { k.Disable(rows); return nil })
	if err := k.do(func(rows *store.Batch) error { return k.DeleteUser(Root, rows) }); err != nil {
		t.Errorf("nobody is asked, but root stays: %v", err)
	}
	if err := k.do(k.Enable); !errors.Is(err, ErrRootUserMissing) {
		t.Errorf("enable: %v", err)
	}
}

func TestNamesFitIntoRows(t *testing.T) {
	k := newKept(t)
	long := strings.Repeat("x", MaxName+1)
	if err := k.do(func(rows *store.Batch) error { return k.AddUser(long, nil, nil, rows) }); !errors.Is(err, ErrNameTooLong) {
		t.Errorf("user: %v", err)
	}
	if err := k.do(func(rows *store.Batch) error { return k.AddRole(long, rows) }); !errors.Is(err, ErrNameTooLong) {
		t.Errorf("role: %v", err)
	}
}

// What is read back is what was there, and a view that was given out stays as it
// was.
func TestABookIsReadBack(t *testing.T) {
	k := enabled(t)
	k.must(
		func(rows *store.Batch) error { return k.Grant("r", permission(authpb.READWRITE, "a", "\x00"), rows) },
		func(rows *store.Batch) error { return k.Grant("r", permission(authpb.READ, "a", ""), rows) },
	)
	before, text := k.View(), k.dump()
	k.must(func(rows *store.Batch) error { return k.DeleteRole("r", rows) })
	if roles, _ := k.Now().RolesOf("ann"); len(roles) != 0 {
		t.Errorf("ann has %q", roles)
	}
	if got := dump(before); got != text {
		t.Errorf("the view has become\n%swas\n%s", got, text)
	}
	text = k.dump()
	k.reload()
	if got := k.dump(); got != text {
		t.Errorf("read back:\n%swas\n%s", got, text)
	}
}

func (k *kept) dump() string { return dump(k.View()) }

func dump(v *View) string {
	var b strings.Builder
	fmt.Fprintln(&b, v.Enabled(), v.Revision())
	for _, name := range v.Users() {
		roles, _ := v.RolesOf(name)
		password, err := v.Password(name)
		fmt.Fprintf(&b, "user %s %q %s %v\n", name, roles, password, err)
	}
	for _, name := range v.Roles() {
		granted, _ := v.Permissions(name)
		for _, p := range granted {
			row, _ := proto.Marshal(p)
			fmt.Fprintf(&b, "role %s %x\n", name, row)
		}
	}
	return b.String()
}

func TestTokenKeysAreReplacedAndDropped(t *testing.T) {
	k := enabled(t)
	offer := func(made int64, first byte) {
		key, ok := DecodeTokenKey(append([]byte{0, 0, 0, 0, 0, 0, 0, byte(made), first}, make([]byte, 31)...))
		if !ok {
			t.Fatal("the key is not read")
		}
		k.must(func(rows *store.Batch) error { k.OfferKey(key, rows); return nil })
		k.reload()
	}
	has := func() (all string) {
		for _, key := range k.Now().TokenKeys() {
			all += string(key.Secret[0])
		}
		return all
	}
	for _, c := range []struct {
		made  int64
		first byte
		want  string
	}{{5, 'a', "a"}, {5, 'b', "a"}, {4, 'c', "a"}, {6, 'd', "da"}, {9, 'e', "ed"}} {
		if offer(c.made, c.first); has() != c.want {
			t.Errorf("after %c there are %q, want %q", c.first, has(), c.want)
		}
	}
	k.must(func(rows *store.Batch) error { k.Disable(rows); return nil })
	k.reload()
	if offer(9, 'f'); has() != "" {
		t.Errorf("a key from before came back: %q", has())
	}
	if offer(10, 'g'); has() != "g" {
		t.Errorf("there is %q", has())
	}
}
