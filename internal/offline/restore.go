package offline

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"kvd/internal/auth"
	"kvd/internal/bootstrap"
	"kvd/internal/lease"
	"kvd/internal/member"
	"kvd/internal/mvcc"
	"kvd/internal/store"
)

// Restore says how a snapshot becomes a member.
type Restore struct {
	Snapshot string
	Member   bootstrap.Options // where, and who in which cluster
	// Bump is what the revision is raised by, for clients not to see it go back;
	// what was before is marked as compacted. 0: it is not.
	Bump uint64
	// Unverified takes a file without a digest, or with a wrong one.
	Unverified bool
}

// Outcome is what a restore has made.
type Outcome struct {
	ID       member.ID
	Cluster  member.ClusterID
	Revision int64 // that it begins at
	From     int64 // that the snapshot has
	Alarms   int   // that the snapshot carries
}

// Run restores. Nothing is written before the snapshot has been read once, and
// nothing has its name before all is on disk.
func (r *Restore) Run(ctx context.Context, o Options) (made Outcome, err error) {
	file, err := o.open(r.Snapshot)
	if err != nil {
		return made, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := verifyDigest(r.Snapshot, &o); err != nil {
		switch {
		case r.Unverified:
		case errors.Is(err, ErrNoDigest):
			return made, fmt.Errorf("snapshot missing hash but --skip-hash-check=false: %w, as in a database that was copied from a data directory; if that is what it is, and no process wrote to it meanwhile, use --skip-hash-check", err)
		default:
			return made, err
		}
	}
	rows := &store.Batch{}
	if made.From, made.Revision, err = r.raise(file, rows); err != nil {
		return made, fmt.Errorf("%s: %w", r.Snapshot, err)
	}
	made.ID, made.Cluster, err = bootstrap.Restore(ctx, r.Member, bootstrap.Restored{
		From: file, Rows: rows,
		Visit: func(bucket store.Bucket, key, value []byte) error {
			if bucket == store.Alarm {
				made.Alarms++
			}
			if err := readable(bucket, key, value); err != nil {
				return fmt.Errorf("%s: %w", r.Snapshot, err)
			}
			return nil
		},
	})
	return made, err
}

// raise puts into rows what raises the revision, and returns it before and after.
func (r *Restore) raise(file *store.File, rows *store.Batch) (from, to int64, err error) {
	defer store.Catch(&err)
	reader, err := file.Read()
	if err != nil {
		return 0, 0, err
	}
	defer reader.Close()
	if err := known(file, reader, r.Snapshot); err != nil {
		return 0, 0, err
	}
	if _, err := lease.Load(reader); err != nil {
		return 0, 0, err
	}
	if _, err := auth.Load(reader); err != nil {
		return 0, 0, err
	}
	from = mvcc.LastRevision(reader)
	if r.Bump == 0 {
		return from, from, nil
	}
	to, err = mvcc.Bump(reader, r.Bump, rows)
	return from, to, err
}

// ErrForeign says that a file is a database of something else.
var ErrForeign = errors.New("it is no database of kvd or etcd")

// known refuses a file that is somebody else's, or a later version's.
func known(file *store.File, reader store.Reader, path string) error {
	buckets, err := file.Buckets()
	if err != nil {
		return err
	}
	for _, name := range []store.Bucket{store.Key, store.Meta} {
		if !slices.Contains(buckets, name) {
			return fmt.Errorf("%w: it has no bucket %q", ErrForeign, name)
		}
	}
	return bootstrap.CheckVersion(reader, path)
}

// readable refuses a row of the keyspace that no member could read.
func readable(bucket store.Bucket, key, value []byte) error {
	if bucket != store.Key {
		return nil
	}
	rev, _, err := mvcc.ParseKey(key)
	if err != nil {
		return err
	}
	if _, err := mvcc.Parse(value); err != nil {
		return fmt.Errorf("row %v: %w", rev, err)
	}
	return nil
}
