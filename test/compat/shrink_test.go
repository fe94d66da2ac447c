package compat

import (
	"slices"
	"testing"
	"time"

	"kvd/test/oracle"
)

// shrinkWithin bounds the search for a shorter sequence.
const shrinkWithin = 5 * time.Minute

// shrink leaves out of a sequence what is not needed for its last operation to
// make a difference: pieces of half its length, then of a quarter, and so on.
func shrink(t testing.TB, judge, judged oracle.Binary, flags []string, ops []op) []op {
	t.Helper()
	end := time.Now().Add(shrinkWithin)
	for piece := len(ops) / 2; piece > 0; piece /= 2 {
		for from := 0; from+piece < len(ops) && time.Now().Before(end); {
			shorter := slices.Delete(slices.Clone(ops), from, from+piece)
			if differs(t, judge, judged, flags, shorter) {
				ops = shorter
			} else {
				from += piece
			}
		}
	}
	return ops
}

// differs tells whether the last of the operations, and none before it, is
// answered differently.
func differs(t testing.TB, judge, judged oracle.Binary, flags []string, ops []op) bool {
	t.Helper()
	s := newSession(t, judge, judged, flags)
	defer func() {
		for _, one := range s.sides() {
			one.member.Kill()
		}
	}()
	for i, o := range ops {
		if d := s.do(o); d != nil {
			return i == len(ops)-1
		}
	}
	return false
}
