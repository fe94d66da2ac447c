// Package credential finds out who somebody is: it checks passwords, and makes
// and reads the tokens that stand for a checked one. What somebody may do, it
// does not know (package auth does), nor where a token came from. All its types
// are for any goroutine, and none of them starts one.
package credential

import (
	"errors"
	"fmt"
	"strings"
)

// ErrOptions means that the description of the tokens makes no sense.
var ErrOptions = errors.New("auth: invalid auth options")

// Kind is the kind of tokens that are given out.
type Kind string

// The kinds of tokens.
const (
	KindNone   Kind = "" // nobody gets one
	KindSimple Kind = "simple"
	KindJWT    Kind = "jwt"
)

// Spec is what option auth-token asks for.
type Spec struct {
	Kind Kind
	JWT  JWTSpec
}

// ParseSpec reads the option's text: the kind, then name=value pairs, divided by
// commas. It reads no file.
func ParseSpec(text string) (Spec, error) {
	parts := strings.Split(text, ",")
	given := map[string]string{}
	for _, part := range parts[1:] {
		pair := strings.Split(part, "=")
		if len(pair) != 2 {
			return Spec{}, fmt.Errorf("%w: %q is not of the form name=value", ErrOptions, part)
		}
		if _, twice := given[pair[0]]; twice {
			return Spec{}, fmt.Errorf("%w: %s is given twice", ErrOptions, pair[0])
		}
		given[pair[0]] = pair[1]
	}
	s := Spec{Kind: Kind(parts[0])}
	switch s.Kind {
	case KindNone, KindSimple:
		return s, nil
	case KindJWT:
		var err error
		s.JWT, err = parseJWT(given)
		return s, err
	default:
		return Spec{}, fmt.Errorf("%w: unknown kind of token %q", ErrOptions, parts[0])
	}
}
