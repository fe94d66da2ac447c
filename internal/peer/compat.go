package peer

import (
	"net"
	"net/http"
	"strconv"
	"strings"

	"kvd/internal/member"
)

// Headers of requests and answers, as package http spells them on the wire.
const (
	headerFrom       = "X-Server-From"
	headerVersion    = "X-Server-Version"
	headerMinVersion = "X-Min-Cluster-Version"
	headerCluster    = "X-Etcd-Cluster-Id"
	headerTo         = "X-Raft-To"
	headerURLs       = "X-Peerurls"
)

// line is the part of a version that decides whether members go together.
type line struct{ major, minor uint64 }

func (l line) before(m line) bool {
	return l.major < m.major || l.major == m.major && l.minor < m.minor
}

// oldLine is who sends no version.
var oldLine = line{2, 0}

// parseLine reads a semantic version, of which it wants three numbers.
func parseLine(text string) (line, bool) {
	if text == "" {
		return oldLine, true
	}
	text, _, _ = strings.Cut(text, "+")
	text, _, _ = strings.Cut(text, "-")
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return line{}, false
	}
	var n [3]uint64
	for i, part := range parts {
		v, err := strconv.ParseUint(part, 10, 63)
		if err != nil {
			return line{}, false
		}
		n[i] = v
	}
	return line{n[0], n[1]}, true
}

func mustLine(text string) line {
	l, ok := parseLine(text)
	if !ok {
		panic("peer: version " + text)
	}
	return l
}

// introduce sets the headers by which a member makes itself known.
func (t *Transport) introduce(h http.Header) {
	h.Set(headerFrom, t.o.Member.String())
	h.Set(headerVersion, serverVersion)
	h.Set(headerMinVersion, minClusterVersion)
	h.Set(headerCluster, t.o.Cluster.String())
	if t.urls != "" {
		h.Set(headerURLs, t.urls)
	}
}

// compatible says whether who asks may be talked to.
func (t *Transport) compatible(r *http.Request) error {
	h := r.Header
	version, ok := parseLine(h.Get(headerVersion))
	least, alsoOK := parseLine(h.Get(headerMinVersion))
	if !ok || !alsoOK || version.before(mustLine(minClusterVersion)) || mustLine(serverVersion).before(least) {
		t.murmur.warn("another member's version does not go with this one's", asker(r), "remote-addr", r.RemoteAddr,
			"from", h.Get(headerFrom), "its-version", h.Get(headerVersion), "its-minimum-cluster-version", h.Get(headerMinVersion),
			"own-version", serverVersion, "own-minimum-cluster-version", minClusterVersion)
		return ErrIncompatible
	}
	if its := h.Get(headerCluster); its != t.o.Cluster.String() {
		t.murmur.warn("a request came from a member of another cluster", asker(r), "remote-addr", r.RemoteAddr,
			"from", h.Get(headerFrom), "its-cluster-id", its, "own-cluster-id", t.o.Cluster.String())
		return ErrMismatch
	}
	return nil
}

// asker tells apart who asks.
func asker(r *http.Request) string {
	if id, err := member.ParseID(r.Header.Get(headerFrom)); err == nil {
		return id.String()
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}

// hasStreams says whether a server of the version in its answer sends streams.
func hasStreams(text string) bool {
	its, ok := parseLine(text)
	return ok && line{2, 0}.before(its)
}
