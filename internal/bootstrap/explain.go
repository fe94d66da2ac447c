package bootstrap

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Explain adds to an error of the file system what the operator can do. Other
// errors, and nil, stay as they are.
func Explain(err error) error {
	is := func(numbers ...syscall.Errno) bool {
		for _, n := range numbers {
			if errors.Is(err, n) {
				return true
			}
		}
		return false
	}
	switch {
	case is(syscall.ENOSPC, syscall.EDQUOT):
		return fmt.Errorf("%w; the disk is full, or a quota is: make space and start again, nothing that was acknowledged is lost", err)
	case is(syscall.EROFS):
		return fmt.Errorf("%w; the file system is mounted read-only, or protected by the unit (ReadWritePaths=)", err)
	case is(syscall.EACCES, syscall.EPERM):
		return fmt.Errorf("%w; it must belong to the user that kvd runs as (user ID %d)", err, os.Geteuid())
	case is(syscall.EBUSY):
		return fmt.Errorf("%w; a mount point cannot be replaced: name a directory below it", err)
	case is(syscall.EIO):
		return fmt.Errorf("%w; the disk failed, the kernel's log says more: nothing is retried, as what the disk holds is not known", err)
	}
	return err
}
