// Package auth reads whether a data directory has authentication on. It holds
// no users and decides nothing yet: a member with authentication on is refused
// at its start, as serving it without checks would be a hole.
package auth

import (
	"encoding/binary"
	"errors"
	"fmt"

	"kvd/internal/store"
)

// ErrEnabled means that the data asks for checks that cannot be made.
var ErrEnabled = errors.New("authentication is enabled in this data directory, which is not supported yet; disable it with etcd (etcdctl auth disable) first")

// Rows of bucket auth.
const (
	enabledKey  = "authEnabled"
	revisionKey = "authRevision"
)

// Book is what the auth buckets say.
type Book struct {
	enabled  bool
	revision uint64
}

// Load reads the book. A store that was never written has authentication off
// and revision 0.
func Load(r store.Reader) (*Book, error) {
	b := &Book{}
	switch v := r.Value(store.Auth, []byte(enabledKey)); {
	case len(v) == 0:
	case len(v) == 1 && v[0] <= 1:
		b.enabled = v[0] == 1
	default:
		return nil, fmt.Errorf("load auth: row %s holds %x, want 00 or 01", enabledKey, v)
	}
	if v := r.Value(store.Auth, []byte(revisionKey)); v != nil {
		if len(v) != 8 {
			return nil, fmt.Errorf("load auth: row %s has %d bytes, want 8", revisionKey, len(v))
		}
		b.revision = binary.BigEndian.Uint64(v)
	}
	return b, nil
}

// Enabled reports whether requests must be checked.
func (b *Book) Enabled() bool { return b.enabled }

// Revision counts the changes to users and roles; 0 in a store that was never
// written.
func (b *Book) Revision() uint64 { return b.revision }
