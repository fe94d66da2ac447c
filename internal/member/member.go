// Package member knows who is in the cluster, which changes to it are allowed,
// and how all of it is written: etcd's rows, log entries and membership dump.
// It does not speak to members and does not know which of them is alive. The
// machine alone may change the Book; a View is for anyone.
package member

import (
	"cmp"
	"crypto/sha1" // what etcd makes its IDs of
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ID names a member for as long as the cluster lives. Zero is none.
type ID uint64

// String is the form of logs, headers and rows: hex without leading zeros.
func (id ID) String() string { return strconv.FormatUint(uint64(id), 16) }

// ParseID reads what String writes.
func ParseID(s string) (ID, error) {
	n, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("member ID %q: %w", s, err)
	}
	return ID(n), nil
}

// ClusterID names a cluster. It is made once, of its first members.
type ClusterID uint64

// String is hex without leading zeros.
func (id ClusterID) String() string { return strconv.FormatUint(uint64(id), 16) }

// NewID makes the ID of a member that starts with its cluster. The spelling of
// the URLs matters, their order does not.
func NewID(peerURLs []string, token string) ID {
	return ID(hash(strings.Join(slices.Sorted(slices.Values(peerURLs)), "") + token))
}

// AddedID makes the ID of a member that is added to a running cluster at the
// time now, by the second.
func AddedID(peerURLs []string, now time.Time) ID {
	return NewID(peerURLs, strconv.FormatInt(now.Unix(), 10))
}

// ClusterIDOf makes the ID of the cluster that begins with these members.
func ClusterIDOf(ids []ID) ClusterID {
	b := make([]byte, 0, 8*len(ids))
	for _, id := range slices.Sorted(slices.Values(ids)) {
		b = binary.BigEndian.AppendUint64(b, uint64(id))
	}
	return ClusterID(hash(string(b)))
}

func hash(s string) uint64 {
	sum := sha1.Sum([]byte(s))
	return binary.BigEndian.Uint64(sum[:8])
}

// Member is one record, with etcd's JSON. Its slices are never changed.
type Member struct {
	ID         ID       `json:"id"`
	PeerURLs   []string `json:"peerURLs"`
	Learner    bool     `json:"isLearner,omitempty"`
	Name       string   `json:"name,omitempty"`       // empty until the member has published itself
	ClientURLs []string `json:"clientURLs,omitempty"` // the same
}

// Started reports whether the member has a name: it has run, or was there when
// the cluster began.
func (m Member) Started() bool { return m.Name != "" }

// Downgrade is the job of going back by one minor version.
type Downgrade struct {
	Target  string `json:"target-version"` // such as 3.6.0; empty when there is no job
	Enabled bool   `json:"enabled"`
}

func byID(m Member, id ID) int { return cmp.Compare(m.ID, id) }
