package relay

import (
	"errors"
	"syscall"
)

// shrinkBacklog makes a listener's queue as short as can be.
func shrinkBacklog(raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) { failed = syscall.Listen(int(fd), 0) })
	return errors.Join(err, failed)
}
