package oracle

import (
	"testing"

	"kvd/internal/freeport"
)

// FreeAddress returns a loopback address that nobody else will be given.
func FreeAddress(t testing.TB) string {
	t.Helper()
	return freeport.Address(t)
}
