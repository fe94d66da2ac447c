package credential

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"time"
)

// A signed prefix is base64 of: a MAC, when it was made, a nonce, the user. With
// the number that the log gives it it is a simple token like any other, for
// members of etcd, too; but who has the key needs not to have heard of it.
const (
	macSize   = 16
	timeSize  = 8
	nonceSize = 8
	// clockSkew is how far ahead of ours the clock of another member may be.
	clockSkew = time.Minute
)

// SignedPrefix is RandomPrefix with proof. Scope is what the proof depends on
// beside the key: if it changes, the token is void.
func SignedPrefix(key, scope []byte, user string, now time.Time) string {
	said := binary.BigEndian.AppendUint64(nil, uint64(now.Unix()))
	var nonce [nonceSize]byte
	rand.Read(nonce[:])
	said = append(append(said, nonce[:]...), user...)
	return base64.RawURLEncoding.EncodeToString(append(proof(key, scope, said), said...))
}

func proof(key, scope, said []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("kvd simple token, version 1\x00"))
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(scope))))
	mac.Write(scope)
	mac.Write(said)
	return mac.Sum(nil)[:macSize]
}

// Claim is what a token with a signed prefix says of itself.
type Claim struct {
	User string
	Made time.Time

	said, mac []byte
}

// ReadClaim takes a token apart. It says nothing of whether it is true.
func ReadClaim(token string) (c Claim, ok bool) {
	prefix, _, _ := strings.Cut(token, ".")
	b, err := base64.RawURLEncoding.Strict().DecodeString(prefix)
	if err != nil || len(b) <= macSize+timeSize+nonceSize {
		return Claim{}, false
	}
	c.mac, c.said = b[:macSize], b[macSize:]
	c.Made = time.Unix(int64(binary.BigEndian.Uint64(c.said)), 0)
	c.User = string(c.said[timeSize+nonceSize:])
	return c, true
}

// ProvedBy reports whether the token was made with the key in this scope.
func (c Claim) ProvedBy(key, scope []byte) bool {
	return hmac.Equal(c.mac, proof(key, scope, c.said))
}

// Fresh reports whether a token that was made then may be in its first life
// still. Whether it was used since, only who saw it knows.
func (s *Simple) Fresh(made time.Time) bool {
	now := s.now()
	return now.Before(made.Add(s.ttl)) && !made.After(now.Add(clockSkew))
}

// TTL is how long a token lives that is not used.
func (s *Simple) TTL() time.Duration { return s.ttl }
