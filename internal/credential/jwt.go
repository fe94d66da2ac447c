package credential

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

var (
	// ErrVerifyOnly means that there is no key to sign with.
	ErrVerifyOnly = errors.New("auth: token signing attempted with verify-only key")
	errMissingKey = errors.New("auth: missing key data")
	errMismatch   = errors.New("auth: public and private keys don't match")
	errToken      = errors.New("the token is not one of ours")
)

// JWTSpec is what the tokens are signed with.
type JWTSpec struct {
	Method     string
	PublicKey  string // file; PEM
	PrivateKey string // file; PEM, or the secret itself for HS methods
	TTL        time.Duration
	Unknown    []string // options that mean nothing, sorted
}

const defaultTTL = 5 * time.Minute

// methods are the ways of signing, as in etcd.
var methods = []jwt.SigningMethod{
	jwt.SigningMethodHS256, jwt.SigningMethodHS384, jwt.SigningMethodHS512,
	jwt.SigningMethodRS256, jwt.SigningMethodRS384, jwt.SigningMethodRS512,
	jwt.SigningMethodPS256, jwt.SigningMethodPS384, jwt.SigningMethodPS512,
	jwt.SigningMethodES256, jwt.SigningMethodES384, jwt.SigningMethodES512,
	jwt.SigningMethodEdDSA,
}

func methodOf(name string) (jwt.SigningMethod, bool) {
	i := slices.IndexFunc(methods, func(m jwt.SigningMethod) bool { return m.Alg() == name })
	if i < 0 {
		return nil, false
	}
	return methods[i], true
}

func parseJWT(given map[string]string) (JWTSpec, error) {
	s := JWTSpec{Method: given["sign-method"], PublicKey: given["pub-key"], PrivateKey: given["priv-key"], TTL: defaultTTL}
	if text := given["ttl"]; text != "" {
		var err error
		if s.TTL, err = time.ParseDuration(text); err != nil {
			return s, fmt.Errorf("%w: ttl: %w", ErrOptions, err)
		}
	}
	if _, ok := methodOf(s.Method); !ok {
		var names []string
		for _, m := range methods {
			names = append(names, m.Alg())
		}
		return s, fmt.Errorf("%w: sign-method %q: want one of %s", ErrOptions, s.Method, strings.Join(names, ", "))
	}
	for _, known := range []string{"sign-method", "pub-key", "priv-key", "ttl"} {
		delete(given, known)
	}
	s.Unknown = slices.Sorted(maps.Keys(given))
	return s, nil
}

// JWT makes and reads JSON web tokens.
type JWT struct {
	method jwt.SigningMethod
	sign   any // nil: tokens can only be read
	verify any
	ttl    time.Duration
	parser *jwt.Parser
}

// NewJWT reads the keys. Now is the clock; nil is the real one.
func NewJWT(s JWTSpec, now func() time.Time) (*JWT, error) {
	method, ok := methodOf(s.Method)
	if !ok {
		return nil, fmt.Errorf("%w: sign-method %q", ErrOptions, s.Method)
	}
	if now == nil {
		now = time.Now
	}
	j := &JWT{
		method: method, ttl: cmp.Or(s.TTL, defaultTTL),
		parser: jwt.NewParser(jwt.WithValidMethods([]string{method.Alg()}), jwt.WithTimeFunc(now)),
	}
	private, err := readKey("priv-key", s.PrivateKey)
	if err != nil {
		return nil, err
	}
	public, err := readKey("pub-key", s.PublicKey)
	if err != nil {
		return nil, err
	}
	if err := j.keys(private, public); err != nil {
		return nil, fmt.Errorf("auth-token jwt, %s: %w", method.Alg(), err)
	}
	return j, nil
}

func readKey(option, path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrOptions, option, err)
	}
	return data, nil
}

// keys takes the keys out of what was in their files.
func (j *JWT) keys(private, public []byte) error {
	switch j.method.(type) {
	case *jwt.SigningMethodHMAC:
		if len(private) == 0 {
			return errMissingKey
		}
		j.sign, j.verify = private, private
		return nil
	case *jwt.SigningMethodECDSA:
		return pair(j, private, public, jwt.ParseECPrivateKeyFromPEM, jwt.ParseECPublicKeyFromPEM)
	case *jwt.SigningMethodEd25519:
		return pair(j, private, public,
			func(b []byte) (ed25519.PrivateKey, error) {
				return as[ed25519.PrivateKey](jwt.ParseEdPrivateKeyFromPEM(b))
			},
			func(b []byte) (ed25519.PublicKey, error) {
				return as[ed25519.PublicKey](jwt.ParseEdPublicKeyFromPEM(b))
			})
	default: // RSA, in both ways
		return pair(j, private, public, jwt.ParseRSAPrivateKeyFromPEM, jwt.ParseRSAPublicKeyFromPEM)
	}
}

func as[T any](key any, err error) (T, error) {
	typed, ok := key.(T)
	if err == nil && !ok {
		err = jwt.ErrInvalidKeyType
	}
	return typed, err
}

// pair parses the two keys of an asymmetric method. One is enough; two must
// belong together.
func pair[Private interface{ Public() crypto.PublicKey }, Public interface{ Equal(crypto.PublicKey) bool }](
	j *JWT, private, public []byte, parsePrivate func([]byte) (Private, error), parsePublic func([]byte) (Public, error),
) error {
	if len(private) == 0 && len(public) == 0 {
		return errMissingKey
	}
	if len(private) > 0 {
		key, err := parsePrivate(private)
		if err != nil {
			return fmt.Errorf("private key: %w", err)
		}
		j.sign, j.verify = key, key.Public()
	}
	if len(public) > 0 {
		key, err := parsePublic(public)
		if err != nil {
			return fmt.Errorf("public key: %w", err)
		}
		if j.verify != nil && !key.Equal(j.verify) {
			return errMismatch
		}
		j.verify = key
	}
	return j.fits()
}

// fits reports why the key cannot be used with an elliptic method: each has its
// curve. Etcd finds out when the first user logs in.
func (j *JWT) fits() error {
	m, elliptic := j.method.(*jwt.SigningMethodECDSA)
	if !elliptic {
		return nil
	}
	key, ok := j.verify.(*ecdsa.PublicKey)
	if !ok || key.Curve.Params().BitSize != m.CurveBits {
		return fmt.Errorf("%w: it needs a curve of %d bits", jwt.ErrInvalidKey, m.CurveBits)
	}
	return nil
}

// maxRevision is the largest whole number that JSON carries exactly.
const maxRevision = 1 << 53

// Sign makes a token for a user, at a revision of users and roles.
func (j *JWT) Sign(user string, revision uint64, now time.Time) (string, error) {
	if j.sign == nil {
		return "", ErrVerifyOnly
	}
	token, err := jwt.NewWithClaims(j.method, jwt.MapClaims{
		"username": user, "revision": revision, "exp": now.Add(j.ttl).Unix(),
	}).SignedString(j.sign)
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return token, nil
}

// Verify reads a token. Every error means that it is not valid.
func (j *JWT) Verify(token string) (user string, revision uint64, err error) {
	said := jwt.MapClaims{}
	if _, err := j.parser.ParseWithClaims(token, said, func(*jwt.Token) (any, error) { return j.verify, nil }); err != nil {
		return "", 0, err
	}
	user, named := said["username"].(string)
	at, dated := said["revision"].(float64)
	if !named || !dated || !(at >= 0 && at <= maxRevision) {
		return "", 0, errToken
	}
	return user, uint64(at), nil
}
