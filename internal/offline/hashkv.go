package offline

import (
	"errors"
	"fmt"

	"kvd/internal/mvcc"
	"kvd/internal/store"
)

// HashKV is the hash of the history of the keys, which is equal on all members
// at one revision.
type HashKV struct {
	Hash            uint32 `json:"hash"`
	HashRevision    int64  `json:"hashRevision"`
	CompactRevision int64  `json:"compactRevision"`
}

// HashKVOf hashes the keys in the file at path as they were at revision rev; 0:
// the newest.
func HashKVOf(path string, rev int64, o Options) (h HashKV, err error) {
	file, err := o.open(path)
	if err != nil {
		return h, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	defer store.Catch(&err)
	reader, err := file.Read()
	if err != nil {
		return h, err
	}
	defer reader.Close()
	if err := known(file, reader, path); err != nil {
		return h, fmt.Errorf("%s: %w", path, err)
	}
	keys, err := mvcc.Load(mvcc.Options{}, file.Read, reader, func(string, int64) {})
	if err != nil {
		return h, fmt.Errorf("%s: %w", path, err)
	}
	h.Hash, h.CompactRevision, h.HashRevision, err = keys.View().HashKV(rev)
	if err != nil {
		return h, fmt.Errorf("mvcc: %w", err)
	}
	return h, nil
}
