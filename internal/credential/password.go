package credential

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

var (
	// ErrPassword means that the password is not the one that was hashed.
	ErrPassword = errors.New("wrong password")
	// ErrBusy means that too many passwords wait to be looked at.
	ErrBusy = errors.New("too many passwords are being checked; try again later")
)

const (
	// passwordQueue is how many callers may wait for the pool; others are
	// refused.
	passwordQueue = 1024
	// cacheTime is how long a password that was right need not be hashed again,
	// and cacheSize how many such are known at once.
	cacheTime = time.Minute
	cacheSize = 4096
)

// Passwords hashes and checks passwords. That takes tens of milliseconds of a
// processor by design, so only so many are worked on at once, and what was right
// a moment ago is right without hashing.
type Passwords struct {
	cost  int
	now   func() time.Time
	slots chan struct{} // one element per password being worked on
	queue chan struct{} // the same for those that wait, too
	dummy []byte        // looks like a hash, and no password is known for it
	key   [32]byte      // of the cache's digests: a dump of memory is no list to guess from

	mu    sync.Mutex
	right map[[sha256.Size]byte]time.Time // digests of what was right, until when
}

// NewPasswords makes a pool; cost is bcrypt's. Now is the clock; nil is the real
// one.
func NewPasswords(cost int, now func() time.Time) *Passwords {
	if now == nil {
		now = time.Now
	}
	p := &Passwords{
		cost: cost, now: now,
		slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1)),
		queue: make(chan struct{}, passwordQueue),
		right: map[[sha256.Size]byte]time.Time{},
	}
	rand.Read(p.key[:])
	p.dummy = fmt.Appendf(nil, "$2a$%02d$%.53s", cost, rand.Text()+rand.Text()+rand.Text())
	return p
}

// enter waits for a place in the pool.
func (p *Passwords) enter(ctx context.Context) (leave func(), err error) {
	select {
	case p.queue <- struct{}{}:
	default:
		return nil, ErrBusy
	}
	select {
	case p.slots <- struct{}{}:
		return func() { <-p.slots; <-p.queue }, nil
	case <-ctx.Done():
		<-p.queue
		return nil, ctx.Err()
	}
}

// Hash makes what is kept of a password. One that bcrypt does not take is an
// error of bcrypt's.
func (p *Passwords) Hash(ctx context.Context, password string) ([]byte, error) {
	leave, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return bcrypt.GenerateFromPassword([]byte(password), p.cost)
}

// Check compares a password with what is kept of it. A user who does not exist
// has nothing kept: it takes as long to say so as it does for one who does. The
// errors are ErrPassword, ErrBusy and those of ctx.
func (p *Passwords) Check(ctx context.Context, user string, kept []byte, password string) error {
	digest := p.digest(user, kept, password)
	if p.known(digest) {
		return nil
	}
	leave, err := p.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	against := kept
	if len(kept) == 0 {
		against = p.dummy
	}
	if err := bcrypt.CompareHashAndPassword(against, []byte(password)); err != nil || len(kept) == 0 {
		return ErrPassword
	}
	p.remember(digest)
	return nil
}

// digest stands for a user, what is kept of the password, and the password: so
// another password makes what was remembered worthless.
func (p *Passwords) digest(user string, kept []byte, password string) (sum [sha256.Size]byte) {
	mac := hmac.New(sha256.New, p.key[:])
	for _, part := range [][]byte{[]byte(user), kept, []byte(password)} {
		mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		mac.Write(part)
	}
	mac.Sum(sum[:0])
	return sum
}

func (p *Passwords) known(digest [sha256.Size]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	until, ok := p.right[digest]
	return ok && p.now().Before(until)
}

// remember keeps a digest for the time of the cache, not longer however often
// it is asked for. A full cache forgets what is over, or else anything.
func (p *Passwords) remember(digest [sha256.Size]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if len(p.right) >= cacheSize {
		for d, until := range p.right {
			if !now.Before(until) {
				delete(p.right, d)
			}
		}
	}
	for d := range p.right {
		if len(p.right) < cacheSize {
			break
		}
		delete(p.right, d)
	}
	p.right[digest] = now.Add(cacheTime)
}
