package offline

import (
	"errors"
	"fmt"
	"math"
	"os"

	"go.etcd.io/etcd/api/v3/versionpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"kvd/internal/bootstrap"
	"kvd/internal/member"
	"kvd/internal/state"
	"kvd/internal/store"
	"kvd/internal/wal"
)

// The versions whose layouts differ from the one before: 3.6 began to say in the
// database which it is.
var (
	firstLayout = member.Version{Major: 3, Minor: 5}
	tellsLayout = member.Version{Major: 3, Minor: 6}
)

// Migration gives the database of a member that does not run the layout of
// another version of etcd.
type Migration struct {
	Member bootstrap.Options
	Target member.Version // 3.5 or later
	Force  bool           // set the version, whatever stands against it
}

// Migrated is what a migration found and did.
type Migrated struct {
	From    member.Version
	Refused error // what Force has overridden
}

// Run migrates. The log is read first: an older version must understand it.
func (m *Migration) Run(o Options) (done Migrated, err error) {
	defer func() { err = bootstrap.Explain(err) }()
	paths := m.Member.Paths()
	if _, err := os.Stat(paths.Database); err != nil { // or it would be made
		return done, err
	}
	remains, err := hold(m.Member, o.Timeout)
	if err != nil {
		return done, err
	}
	remains.Release() // of the shared locks; what follows excludes everybody
	if _, err := os.Stat(paths.Own); err == nil {
		lock, err := bootstrap.Hold(paths.Own)
		if err != nil {
			return done, err
		}
		defer lock.Release() //nolint:errcheck // it ends with the process
	}
	wait := o.Timeout
	if wait == 0 {
		wait = math.MaxInt64
	}
	file, err := store.Open(paths.Database, store.Options{Timeout: wait})
	if errors.Is(err, store.ErrLocked) {
		return done, fmt.Errorf("%w: %s has %s open; stop it first", bootstrap.ErrHeld, bootstrap.HolderOf(paths.Database), paths.Database)
	}
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	stamp, from, err := layoutOf(file)
	if done.From = from; err != nil || from.Compare(m.Target) == 0 {
		return done, err
	}
	if err := m.allowed(from, paths.Log); err != nil {
		if !m.Force {
			return done, err
		}
		done.Refused = err
	}
	batch := &store.Batch{}
	if m.Target.Compare(tellsLayout) < 0 {
		batch.Delete(store.Meta, []byte(state.StorageVersion))
	} else {
		batch.Put(store.Meta, []byte(state.StorageVersion), []byte(m.Target.String()))
	}
	return done, file.Commit(stamp, batch)
}

// layoutOf is the version of a database's layout, and where it is in the log.
func layoutOf(file *store.File) (at store.Stamp, v member.Version, err error) {
	defer store.Catch(&err)
	reader, err := file.Read()
	if err != nil {
		return at, v, err
	}
	defer reader.Close()
	at = reader.Stamp()
	switch row := reader.Value(store.Meta, []byte(state.StorageVersion)); {
	case row != nil:
		v, err = member.ParseVersion(string(row))
		return at, v, err
	case at.Term == 0:
		return at, v, errors.New("cannot detect storage schema version: missing term information; a directory of 3.4 or older has to be started once by 3.5")
	}
	return at, firstLayout, nil
}

// allowed says why there is no way from one version to the target.
func (m *Migration) allowed(from member.Version, log string) error {
	to := m.Target
	if from.Major != to.Major {
		return errors.New("cannot create migration plan: changing major storage version is not supported")
	}
	last := state.ClusterVersion.Line()
	if over := (member.Version{Major: last.Major, Minor: last.Minor + 1}); to.Compare(last) > 0 && from.Compare(to) < 0 {
		return fmt.Errorf("cannot create migration plan: version %q is not supported", over)
	}
	if from.Line().Compare(last) > 0 {
		return fmt.Errorf("cannot create migration plan: version %q is not supported", from.Line())
	}
	if to.Compare(from) > 0 {
		return nil
	}
	needed, err := oldestReader(log)
	if err != nil {
		return err
	}
	if to.Compare(needed) < 0 {
		return fmt.Errorf("cannot downgrade storage, WAL contains newer entries, as the target version (%s) is lower than the version (%s) detected from WAL logs", to, needed)
	}
	return nil
}

// oldestReader is the oldest version that understands the entries of a log
// behind its last snapshot.
func oldestReader(dir string) (needed member.Version, err error) {
	health, err := wal.Check(dir, wal.Options{})
	if err != nil {
		return needed, err
	}
	err = wal.Dump(dir, func(r wal.Record) error {
		if r.Kind != wal.KindEntry || r.Entry.GetIndex() <= health.Start.Index || r.Entry.GetType() != raftpb.EntryNormal || len(r.Entry.GetData()) == 0 {
			return nil
		}
		request, err := state.Decode(r.Entry.GetData())
		if err != nil {
			return fmt.Errorf("entry %d: %w", r.Entry.GetIndex(), err)
		}
		if test := request.GetDowngradeVersionTest(); test != nil {
			v, err := member.ParseVersion(test.GetVer())
			if err != nil {
				return fmt.Errorf("entry %d: %w", r.Entry.GetIndex(), err)
			}
			needed = newer(needed, v)
		}
		needed = newer(needed, readerOf(request.ProtoReflect()))
		return nil
	})
	return needed, err
}

func newer(a, b member.Version) member.Version {
	if a.Compare(b) < 0 {
		return b
	}
	return a
}

// readerOf is the oldest version that knows all fields that a message has, as
// the definitions of the protocol say.
func readerOf(m protoreflect.Message) (needed member.Version) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if since, ok := proto.GetExtension(field.Options(), versionpb.E_EtcdVersionField).(string); ok && since != "" {
			if v, err := member.ParseVersion(since); err == nil {
				needed = newer(needed, v)
			}
		}
		switch {
		case field.Message() == nil || field.IsMap():
		case field.IsList():
			for i := range value.List().Len() {
				needed = newer(needed, readerOf(value.List().Get(i).Message()))
			}
		default:
			needed = newer(needed, readerOf(value.Message()))
		}
		return true
	})
	return needed
}
