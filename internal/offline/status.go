package offline

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"kvd/internal/member"
	"kvd/internal/mvcc"
	"kvd/internal/state"
	"kvd/internal/store"
)

// Status says what a snapshot, or the database of a member that does not run,
// holds.
type Status struct {
	Hash      uint32 `json:"hash"`     // over all buckets, their names, keys and values
	Revision  int64  `json:"revision"` // the newest
	TotalKey  int    `json:"totalKey"` // that are not deleted
	TotalSize int64  `json:"totalSize"`
	Version   string `json:"version"` // of the layout; empty before 3.6
}

// ErrDigest says that a snapshot is not what was saved: its SHA-256 is not the
// one at its end.
var ErrDigest = errors.New("the digest at the end of the snapshot is not that of its bytes")

// ErrNoDigest says that there is no digest at the end of a file, as in a
// database that was copied from a data directory.
var ErrNoDigest = errors.New("no digest at the end of the file")

// StatusOf reads all of the file at path: every page, every row, and the digest
// at its end, if it has one.
func StatusOf(path string, o Options) (s Status, err error) {
	file, err := o.open(path)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := verifyDigest(path, &o); err != nil && !errors.Is(err, ErrNoDigest) {
		return s, err
	}
	defer store.Catch(&err)
	s.TotalSize = file.Size()
	seen := map[string]struct{}{}
	read, last := int64(0), int64(0)
	s.Hash, err = file.HashEach(func(bucket store.Bucket, key, value []byte) error {
		if read += int64(len(key) + len(value)); read-last >= dropEvery {
			last = read
			o.progress("reading the database", min(read, s.TotalSize), s.TotalSize)
			if err := file.DropCache(); err != nil {
				return err
			}
		}
		switch {
		case bucket == store.Key:
			if err := s.count(seen, key, value); err != nil {
				return fmt.Errorf("%s: %w; \"kvd check\" says what else is damaged", path, err)
			}
		case bucket == store.Meta && string(key) == state.StorageVersion:
			if v, err := member.ParseVersion(string(value)); err == nil {
				s.Version = v.String()
			}
		}
		return nil
	})
	s.TotalKey = len(seen)
	return s, err
}

// count takes notice of one row of the keyspace.
func (s *Status) count(seen map[string]struct{}, row, value []byte) error {
	rev, dead, err := mvcc.ParseKey(row)
	if err != nil {
		return err
	}
	s.Revision = rev.Main
	kv, err := mvcc.Parse(value)
	switch {
	case err != nil:
		return fmt.Errorf("row %v: %w", rev, err)
	case dead:
		delete(seen, string(kv.Key))
	default:
		seen[string(kv.Key)] = struct{}{}
	}
	return nil
}

// sector is what the size of a database is a multiple of. A snapshot is longer
// by its digest.
const sector = 512

// hasDigest reports whether a file of size bytes is a snapshot with a digest.
func hasDigest(size int64) bool { return size%sector == sha256.Size }

// verifyDigest compares a snapshot with the SHA-256 at its end.
func verifyDigest(path string, o *Options) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !hasDigest(info.Size()) {
		return fmt.Errorf("%s: %w", path, ErrNoDigest)
	}
	sum, size := sha256.New(), info.Size()-sha256.Size
	if _, err := io.Copy(sum, &told{from: io.LimitReader(file, size), total: size, what: "comparing the digest", options: o}); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return compareDigest(path, file, sum)
}

func compareDigest(path string, rest io.Reader, sum hash.Hash) error {
	want := make([]byte, sha256.Size)
	if _, err := io.ReadFull(rest, want); err != nil {
		return fmt.Errorf("%s: read the digest: %w", path, err)
	}
	if got := sum.Sum(nil); !bytes.Equal(got, want) {
		return fmt.Errorf("%s: %w (sha256 %x, expected %x): it was damaged or cut after it was saved; take another one", path, ErrDigest, got, want)
	}
	return nil
}

// told tells how much has been read.
type told struct {
	from        io.Reader
	done, total int64
	what        string
	options     *Options
}

func (t *told) Read(p []byte) (int, error) {
	n, err := t.from.Read(p)
	t.done += int64(n)
	t.options.progress(t.what, t.done, t.total)
	return n, err
}
