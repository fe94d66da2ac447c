package wal

import (
	"errors"
	"fmt"
	"os"

	"kvd/internal/vfs"
)

// IdentityOf reads whose log is in dir, without opening, repairing or locking
// it: for a log that Open refuses. Every segment names the member at its
// beginning; the first that can be read counts.
func IdentityOf(dir string) (Identity, error) {
	files := vfs.OS{}
	segments, _, err := listSegments(files, dir)
	if err != nil {
		return Identity{}, err
	}
	faults := []error{fmt.Errorf("%s: no segment of the log names its member", dir)}
	for _, s := range segments {
		id, err := identityIn(files, s.path)
		if err == nil {
			return id, nil
		}
		faults = append(faults, err)
	}
	return Identity{}, errors.Join(faults...)
}

func identityIn(files vfs.FS, path string) (id Identity, err error) {
	file, err := files.Open(path, os.O_RDONLY, fileMode)
	if err != nil {
		return Identity{}, fmt.Errorf("open log segment: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	in, err := newReader(file, path, nil)
	if err != nil {
		return Identity{}, err
	}
	for {
		rec, err := in.next()
		if err != nil {
			return Identity{}, fmt.Errorf("%s: %w", path, err)
		}
		switch rec.kind {
		case KindMetadata:
			return parseIdentity(rec.data)
		case KindCRC:
		default:
			return Identity{}, corrupt(path, rec.offset, "it begins with a %v, not with its member's identity", rec.kind)
		}
	}
}
