package daemon

import (
	"os"

	"golang.org/x/sys/unix"
)

// processFamilies are of the process, beside what the collectors of the
// Prometheus library show.
func processFamilies() []family {
	return []family{
		labelled("os_fd_used", "File descriptors that are open.", nil, func(_ *reading, show show) {
			if n, err := openFiles(); err == nil {
				show(float64(n))
			}
		}),
		labelled("os_fd_limit", "File descriptors that may be open.", nil, func(_ *reading, show show) {
			var limit unix.Rlimit
			if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil {
				show(float64(limit.Cur))
			}
		}),
	}
}

// openFiles counts what the process has open, but for the directory it reads it
// from.
func openFiles() (int, error) {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	return max(len(names)-1, 0), err
}
