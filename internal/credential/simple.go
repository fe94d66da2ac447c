package credential

import (
	"crypto/rand"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxTokens are known at once. A member that gives out more forgets some:
	// their users log in again.
	maxTokens = 1 << 17
	// prefixLetters is the length of a token up to its dot: 91 bits of chance.
	prefixLetters = 16
	letters       = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// Simple knows the simple tokens that the members of the cluster have given
// out. A token lives for a time after it was last used here.
type Simple struct {
	ttl   time.Duration
	now   func() time.Time
	began time.Time

	mu     sync.RWMutex
	tokens map[string]*simpleToken
	pruned time.Time
}

type simpleToken struct {
	user string
	ends atomic.Int64 // Unix time in nanoseconds
}

// NewSimple makes a book of no tokens. TTL 0 is five minutes. Now is the clock;
// nil is the real one.
func NewSimple(ttl time.Duration, now func() time.Time) *Simple {
	if ttl <= 0 {
		ttl = defaultTTL
	}
	if now == nil {
		now = time.Now
	}
	return &Simple{ttl: ttl, now: now, began: now(), tokens: map[string]*simpleToken{}, pruned: now()}
}

// RandomPrefix is a token up to its dot, which is for the log to complete.
func RandomPrefix() string {
	var out strings.Builder
	var b [prefixLetters]byte
	for out.Len() < prefixLetters {
		rand.Read(b[:])
		for _, c := range b {
			// Six bits are one of 52 letters or none, so that all are alike.
			if c &= 63; int(c) < len(letters) && out.Len() < prefixLetters {
				out.WriteByte(letters[c])
			}
		}
	}
	return out.String()
}

// Add takes a token that the log has given to a user. The log of a member that
// has started again gives out once more what was given out before.
func (s *Simple) Add(token, user string) {
	now := s.now()
	if c, ok := ReadClaim(token); ok && c.Made.Before(s.began) && !s.Fresh(c.Made) {
		return
	}
	t := &simpleToken{user: user}
	t.ends.Store(now.Add(s.ttl).UnixNano())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prune(now)
	s.tokens[token] = t
}

// prune forgets tokens that are over, now and then; and others if there are too
// many.
func (s *Simple) prune(now time.Time) {
	if since := now.Sub(s.pruned); since >= s.ttl/8 || len(s.tokens) >= maxTokens && since >= time.Second {
		s.pruned = now
		for token, t := range s.tokens {
			if t.ends.Load() <= now.UnixNano() {
				delete(s.tokens, token)
			}
		}
	}
	for token := range s.tokens {
		if len(s.tokens) < maxTokens {
			return
		}
		delete(s.tokens, token)
	}
}

// User is whom a token stands for. Asking for it prolongs its life.
func (s *Simple) User(token string) (user string, ok bool) {
	s.mu.RLock()
	t, ok := s.tokens[token]
	s.mu.RUnlock()
	if !ok {
		return "", false
	}
	now := s.now()
	ends := t.ends.Load()
	if ends <= now.UnixNano() {
		return "", false
	}
	// Written only now and then: many goroutines share it.
	if next := now.Add(s.ttl).UnixNano(); next-ends > int64(s.ttl/256) {
		t.ends.CompareAndSwap(ends, next)
	}
	return t.user, true
}

// Forget ends the tokens of a user.
func (s *Simple) Forget(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for token, t := range s.tokens {
		if t.user == user {
			delete(s.tokens, token)
		}
	}
}

// Clear ends all tokens.
func (s *Simple) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// Len is how many tokens are known.
func (s *Simple) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.tokens)
}
