// Package invariant holds assertions that are too dear for production. They
// are compiled in by the build tag "invariants" and cost nothing without it.
// It is no error handling: a failed Check is a bug of ours and panics. Any
// package may use it.
package invariant

import "fmt"

// Check panics with the formatted text when ok is false and invariants are on.
// Guard dear conditions with On, so that they are not even computed without
// the tag:
//
//	if invariant.On {
//		invariant.Check(sorted(keys), "keys out of order: %q", keys)
//	}
func Check(ok bool, format string, args ...any) {
	if On && !ok {
		panic("invariant: " + fmt.Sprintf(format, args...))
	}
}
