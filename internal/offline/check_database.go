package offline

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/auth"
	"kvd/internal/bootstrap"
	"kvd/internal/lease"
	"kvd/internal/member"
	"kvd/internal/state"
	"kvd/internal/store"
	"kvd/internal/wal"
)

// checker gathers the findings of one check.
type checker struct {
	Report
	options *Options
	remedy  string // for damage

	health  *wal.Health // nil: the log cannot be read, or there is none
	read    bool        // the database could be
	stamp   store.Stamp
	members []member.Member
}

// ours are the buckets that a member makes.
var ours = []store.Bucket{
	store.Alarm, store.Auth, store.AuthRoles, store.AuthUsers, store.Cluster, store.Key,
	store.Lease, store.Members, store.MembersRemoved, store.Meta,
}

// database checks the pages of the file, then what they hold. Damage is a
// finding; the error is for a file that cannot be looked at.
func (c *checker) database(ctx context.Context) (err error) {
	file, err := c.options.open(c.Database)
	if err != nil {
		if damage, ok := errors.AsType[*store.CorruptError](err); ok {
			c.add(Fault, c.Database, c.remedy, "%s", damage.Reason)
			return nil
		}
		if errors.Is(err, errEmpty) {
			c.add(Fault, c.Database, c.remedy, "it %v", errEmpty)
			return nil
		}
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	c.Size = file.Size()
	if err := c.contents(ctx, file); err != nil {
		if ctx.Err() != nil {
			return err
		}
		c.add(Fault, c.Database, c.remedy, "%s", reasonOf(err))
	}
	return nil
}

func (c *checker) contents(ctx context.Context, file *store.File) (err error) {
	defer store.Catch(&err)
	reader, err := file.Read()
	if err != nil {
		return err
	}
	defer reader.Close()
	buckets, err := file.Buckets()
	if err != nil {
		return err
	}
	for _, name := range []store.Bucket{store.Key, store.Meta} {
		if !slices.Contains(buckets, name) {
			c.add(Fault, c.Database, "see where the file comes from", "%v: it has no bucket %q", ErrForeign, name)
			return nil
		}
	}
	for _, name := range buckets {
		if !slices.Contains(ours, name) {
			c.add(Remark, c.bucket(name), "", "a bucket that this version does not know")
		}
	}
	c.read = true
	c.meta(reader)
	c.cluster(reader)
	leases := c.leases(reader)
	c.alarms(reader)
	c.users(reader)
	return c.keyspace(ctx, file, reader, leases)
}

func (c *checker) bucket(name store.Bucket) string { return fmt.Sprintf("bucket %s", name) }

// meta checks the position in the log and the version.
func (c *checker) meta(r store.Reader) {
	c.stamp = r.Stamp()
	c.Applied = c.stamp.Index
	for _, name := range []string{"consistent_index", "term"} {
		if v := r.Value(store.Meta, []byte(name)); v != nil && len(v) != 8 {
			c.add(Fault, c.bucket(store.Meta), c.remedy, "row %s has %d bytes, and should have 8", name, len(v))
		}
	}
	if v := r.Value(store.Meta, []byte(state.StorageVersion)); v != nil {
		c.Version = string(v)
	}
	if err := bootstrap.CheckVersion(r, c.Database); err != nil {
		c.add(Fault, c.bucket(store.Meta), remedyVersion, "the layout is of version %q, which this one does not know", c.Version)
	}
}

func (c *checker) cluster(r store.Reader) {
	book, err := member.Load(r)
	if err != nil {
		c.add(Fault, c.bucket(store.Members), c.remedy, "%v", err)
		return
	}
	c.members = book.Members()
	c.Members = len(c.members)
	if v := book.ClusterVersion(); v.Line().Compare(state.ClusterVersion) > 0 {
		c.add(Fault, c.bucket(store.Cluster), remedyVersion, "the cluster has agreed on version %s, and this is %s", v, state.ClusterVersion)
	}
	if len(c.members) > 0 && !slices.ContainsFunc(c.members, func(m member.Member) bool { return !m.Learner }) {
		c.add(Fault, c.bucket(store.Members), c.remedy, "no member has a vote")
	}
}

func (c *checker) leases(r store.Reader) *lease.Book {
	book, err := lease.Load(r)
	if err != nil {
		c.add(Fault, c.bucket(store.Lease), c.remedy, "%v", err)
		return nil
	}
	r.Scan(store.Lease, nil, nil, func(key, _ []byte) bool {
		if len(key) != 8 {
			c.add(Fault, c.bucket(store.Lease), c.remedy, "row %x is of no lease", key)
		} else if _, ok := book.Lease(lease.ID(binary.BigEndian.Uint64(key))); !ok {
			c.add(Fault, c.bucket(store.Lease), c.remedy, "row %x is about another lease", key)
		}
		return true
	})
	c.Leases = book.Len()
	return book
}

func (c *checker) alarms(r store.Reader) {
	r.Scan(store.Alarm, nil, nil, func(key, _ []byte) bool {
		var a pb.AlarmMember
		if err := proto.Unmarshal(key, &a); err != nil {
			c.add(Fault, c.bucket(store.Alarm), c.remedy, "row %x: %v", key, err)
			return true
		}
		w, remedy := Doubt, "make room (compact, defragment), then 'kvctl alarm disarm'"
		if a.Alarm == pb.AlarmType_CORRUPT {
			remedy = "replace the members whose data differs (kvd member rejoin), then 'kvctl alarm disarm'"
		}
		c.add(w, c.bucket(store.Alarm), remedy, "the alarm %v of member %s is raised", a.Alarm, member.ID(a.MemberID))
		return true
	})
}

func (c *checker) users(r store.Reader) {
	book, err := auth.Load(r)
	if err != nil {
		c.add(Fault, c.bucket(store.Auth), c.remedy, "%v", err)
	}
	roles := map[string]bool{}
	r.Scan(store.AuthRoles, nil, nil, func(key, value []byte) bool {
		var role authpb.Role
		if err := proto.Unmarshal(value, &role); err != nil || string(role.Name) != string(key) {
			c.add(Fault, c.bucket(store.AuthRoles), c.remedy, "role %q cannot be read: its row is about %q (%v)", key, role.Name, err)
		}
		roles[string(key)] = true
		return true
	})
	root := false
	r.Scan(store.AuthUsers, nil, nil, func(key, value []byte) bool {
		var user authpb.User
		if err := proto.Unmarshal(value, &user); err != nil || string(user.Name) != string(key) {
			c.add(Fault, c.bucket(store.AuthUsers), c.remedy, "user %q cannot be read: its row is about %q (%v)", key, user.Name, err)
			return true
		}
		for _, role := range user.Roles {
			root = root || role == "root"
			if !roles[role] && role != "root" {
				c.add(Doubt, c.bucket(store.AuthUsers), fmt.Sprintf("kvctl user revoke-role %s %s", key, role), "user %q has the role %q, which there is not", key, role)
			}
		}
		return true
	})
	if err == nil && book.Now().Enabled() && !root {
		c.add(Fault, c.bucket(store.Auth), c.remedy, "authentication is on, and no user has the role root")
	}
}

// keyspace checks the rows of the keys, then whether the index that a member
// makes of them says the same.
func (c *checker) keyspace(ctx context.Context, file *store.File, r store.Reader, leases *lease.Book) error {
	k := newKeys(c, leases)
	if err := k.compaction(r); err != nil {
		c.add(Fault, c.bucket(store.Meta), c.remedy, "%v", err)
		return nil
	}
	total, read, dropped := c.Size, int64(0), int64(0)
	var stop error
	r.Scan(store.Key, nil, nil, func(key, value []byte) bool {
		k.row(key, value)
		if read += int64(len(key) + len(value)); read-dropped < dropEvery {
			return true
		}
		dropped = read
		c.options.progress("checking the keys", min(read, total), total)
		stop = errors.Join(ctx.Err(), file.DropCache())
		return stop == nil
	})
	if stop != nil {
		return stop
	}
	c.Revision, c.Compacted, c.Rows = max(k.last.Main, k.compacted, 1), k.compacted, k.rows
	c.Keys = k.end()
	if k.faults > 0 {
		return nil
	}
	return k.index(file, r)
}
