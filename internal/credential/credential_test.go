package credential

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/crypto/bcrypt"
)

// clock is a time that a test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Unix(1_800_000_000, 0)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func TestASimpleTokenLivesAsLongAsItIsUsed(t *testing.T) {
	c := newClock()
	s := NewSimple(time.Minute, c.now)
	s.Add("x.1", "ann")
	for range 5 {
		c.pass(59 * time.Second)
		if user, ok := s.User("x.1"); !ok || user != "ann" {
			t.Fatalf("%q, %v", user, ok)
		}
	}
	c.pass(time.Minute)
	if user, ok := s.User("x.1"); ok {
		t.Errorf("%q still", user)
	}
	s.Add("y.2", "bob") // which clears away
	if s.Len() != 1 {
		t.Errorf("%d tokens are kept", s.Len())
	}
}

func TestTokensOfOneUserAreVoidedAlone(t *testing.T) {
	s := NewSimple(time.Minute, newClock().now)
	s.Add("a.1", "ann")
	s.Add("b.2", "bob")
	s.Add("a.3", "ann")
	s.Forget("ann")
	for token, want := range map[string]bool{"a.1": false, "b.2": true, "a.3": false} {
		if _, ok := s.User(token); ok != want {
			t.Errorf("%s: %v", token, ok)
		}
	}
	s.Clear()
	if s.Len() != 0 {
		t.Errorf("%d are left", s.Len())
	}
}

func TestTokensHaveABound(t *testing.T) {
	c := newClock()
	s := NewSimple(time.Hour, c.now)
	for i := range maxTokens + 10 {
		s.Add(fmt.Sprintf("t.%d", i), "ann")
	}
	if s.Len() > maxTokens {
		t.Errorf("%d tokens are kept", s.Len())
	}
	if _, ok := s.User(fmt.Sprintf("t.%d", maxTokens+9)); !ok {
		t.Error("the last one is not known")
	}
}

func TestATokenProvesWhoseItIs(t *testing.T) {
	c := newClock()
	s := NewSimple(time.Minute, c.now)
	key, scope := []byte("key"), []byte("scope")
	token := SignedPrefix(key, scope, "ann.of.cleves", c.now()) + ".7"
	if strings.Count(token, ".") != 1 {
		t.Fatalf("etcd would not take %q", token)
	}
	claim, ok := ReadClaim(token)
	if !ok || claim.User != "ann.of.cleves" || !claim.Made.Equal(c.now()) || !claim.ProvedBy(key, scope) {
		t.Fatalf("%+v, %v", claim, ok)
	}
	if claim.ProvedBy([]byte("other"), scope) || claim.ProvedBy(key, []byte("other")) {
		t.Error("another key or scope proves it, too")
	}
	for i := range len(token) - 2 { // all but the number
		bent := []byte(token)
		if bent[i]++; bent[i] == '.' {
			continue
		}
		if claim, ok := ReadClaim(string(bent)); ok && claim.ProvedBy(key, scope) {
			t.Errorf("bent at %d it still proves itself", i)
		}
	}
	if !s.Fresh(claim.Made) {
		t.Error("it is not fresh")
	}
	c.pass(time.Minute)
	if s.Fresh(claim.Made) || s.Fresh(c.now().Add(2*clockSkew)) || !s.Fresh(c.now().Add(clockSkew/2)) {
		t.Error("freshness is not by the clock")
	}
	one, other := SignedPrefix(key, scope, "ann", c.now()), SignedPrefix(key, scope, "ann", c.now())
	if one == other {
		t.Error("two tokens are alike")
	}
}

func TestAnOldTokenDoesNotComeBackByTheLog(t *testing.T) {
	c := newClock()
	old := SignedPrefix([]byte("k"), nil, "ann", c.now()) + ".1"
	c.pass(time.Hour)
	s := NewSimple(time.Minute, c.now) // the member starts again, and its log is read
	s.Add(old, "ann")
	s.Add("etcds.2", "ann") // which does not say how old it is
	if _, ok := s.User(old); ok {
		t.Error("a token of an hour ago is good again")
	}
	if _, ok := s.User("etcds.2"); !ok {
		t.Error("a token of etcd is not known")
	}
}

func TestPrefixesAreOfLettersAndNeverAlike(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		p := RandomPrefix()
		if len(p) != prefixLetters || strings.Trim(p, letters) != "" || seen[p] {
			t.Fatalf("%q", p)
		}
		seen[p] = true
	}
}

func TestARightPasswordIsRememberedForAWhileAndAWrongOneNever(t *testing.T) {
	c := newClock()
	p := NewPasswords(bcrypt.MinCost, c.now)
	kept, err := p.Hash(t.Context(), "right")
	if err != nil {
		t.Fatal(err)
	}
	other, err := p.Hash(t.Context(), "right")
	if err != nil {
		t.Fatal(err)
	}
	check := func(user string, kept []byte, password string) error {
		return p.Check(t.Context(), user, kept, password)
	}
	for range 2 {
		if err := check("ann", kept, "right"); err != nil {
			t.Error(err)
		}
		if err := check("ann", kept, "wrong"); !errors.Is(err, ErrPassword) {
			t.Errorf("wrong: %v", err)
		}
	}
	if len(p.right) != 1 {
		t.Errorf("%d are remembered", len(p.right))
	}
	if p.known(p.digest("bob", kept, "right")) || p.known(p.digest("ann", other, "right")) || !p.known(p.digest("ann", kept, "right")) {
		t.Error("what is remembered is not of this user with this password")
	}
	c.pass(cacheTime)
	if p.known(p.digest("ann", kept, "right")) {
		t.Error("it is remembered for ever")
	}
	for name, kept := range map[string][]byte{"nobody": nil, "emptied": {}, "damaged": []byte("x")} {
		if err := check(name, kept, ""); !errors.Is(err, ErrPassword) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if cost, err := bcrypt.Cost(p.dummy); err != nil || cost != bcrypt.MinCost {
		t.Errorf("who does not exist is told in the time of cost %d: %v", cost, err)
	}
}

func TestPasswordsWaitInAQueueWithAnEnd(t *testing.T) {
	p := NewPasswords(bcrypt.MinCost, nil)
	for range cap(p.slots) {
		leave, err := p.enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer leave()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Hash(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("who goes away: %v", err)
	}
	for len(p.queue) < cap(p.queue) {
		p.queue <- struct{}{}
	}
	if err := p.Check(t.Context(), "ann", nil, "x"); !errors.Is(err, ErrBusy) {
		t.Errorf("one too many: %v", err)
	}
}

func TestOptionsSayWhatIsWrongWithThem(t *testing.T) {
	for text, want := range map[string]string{
		"paper":                         `unknown kind of token "paper"`,
		"simple,x":                      `"x" is not of the form name=value`,
		"jwt,a=1,a=2":                   "a is given twice",
		"jwt":                           "want one of HS256",
		"jwt,sign-method=none":          `sign-method "none"`,
		"jwt,sign-method=HS256,ttl=one": "ttl",
	} {
		if _, err := ParseSpec(text); !errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	s, err := ParseSpec("jwt,ttl=1h,sign-method=PS384,pub-key=/a,priv-key=/b,x=1,b=2")
	if err != nil || s.Kind != KindJWT || s.JWT.TTL != time.Hour || s.JWT.Method != "PS384" || fmt.Sprint(s.JWT.Unknown) != "[b x]" {
		t.Errorf("%+v, %v", s, err)
	}
	for _, text := range []string{"", "simple", "simple,whatever=1"} {
		if _, err := ParseSpec(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func hmacTokens(t testing.TB, c *clock) *JWT {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("a key of more than thirty-two bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := NewJWT(JWTSpec{Method: "HS256", PrivateKey: path, TTL: time.Minute}, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestASignedTokenEnds(t *testing.T) {
	c := newClock()
	j := hmacTokens(t, c)
	token, err := j.Sign("ann", 7, c.now())
	if err != nil {
		t.Fatal(err)
	}
	if user, revision, err := j.Verify(token); err != nil || user != "ann" || revision != 7 {
		t.Errorf("%q, %d, %v", user, revision, err)
	}
	c.pass(time.Minute)
	if _, _, err := j.Verify(token); !errors.Is(err, jwt.ErrTokenExpired) {
		t.Errorf("when it is over: %v", err)
	}
}

func TestClaimsMustMakeSense(t *testing.T) {
	c := newClock()
	j := hmacTokens(t, c)
	for name, said := range map[string]jwt.MapClaims{
		"no user":         {"revision": 1},
		"no revision":     {"username": "ann"},
		"a text":          {"username": "ann", "revision": "1"},
		"a number":        {"username": 1, "revision": 1},
		"below nothing":   {"username": "ann", "revision": -1},
		"beyond counting": {"username": "ann", "revision": 1e300},
		"not yet":         {"username": "ann", "revision": 1, "nbf": c.now().Add(time.Hour).Unix()},
	} {
		token, err := jwt.NewWithClaims(j.method, said).SignedString(j.sign)
		if err != nil {
			t.Fatal(err)
		}
		if user, revision, err := j.Verify(token); err == nil {
			t.Errorf("%s: %q, %d", name, user, revision)
		}
	}
	other, err := jwt.NewWithClaims(jwt.SigningMethodHS512, jwt.MapClaims{"username": "ann", "revision": 1}).SignedString(j.sign)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := j.Verify(other); err == nil {
		t.Error("another method is taken")
	}
}

func FuzzTokens(f *testing.F) {
	c := newClock()
	j := hmacTokens(f, c)
	key, scope := []byte("key"), []byte("scope")
	signed, err := j.Sign("ann", 7, c.now())
	if err != nil {
		f.Fatal(err)
	}
	mine := SignedPrefix(key, scope, "ann", c.now()) + ".7"
	for _, seed := range []string{"", ".", "a.1", signed, mine, signed[:len(signed)-1], "eyJhbGciOiJub25lIn0.e30.", mine[:20] + ".7"} {
		f.Add(seed)
	}
	s := NewSimple(time.Minute, c.now)
	f.Fuzz(func(t *testing.T, token string) {
		// Nobody who has not the key makes a token that says anything.
		if user, _, err := j.Verify(token); err == nil && user != "ann" {
			t.Errorf("%q stands for %q", token, user)
		}
		if claim, ok := ReadClaim(token); ok && claim.ProvedBy(key, scope) && claim.User != "ann" {
			t.Errorf("%q proves to be of %q", token, claim.User)
		}
		if user, ok := s.User(token); ok {
			t.Errorf("%q is known, as of %q", token, user)
		}
		if _, err := ParseSpec(token); err != nil && !errors.Is(err, ErrOptions) {
			t.Errorf("%q: %v", token, err)
		}
	})
}
