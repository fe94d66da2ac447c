//go:build !invariants

package invariant

// On says whether assertions are compiled in.
const On = false
