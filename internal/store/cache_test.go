package store

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// lockedKiB is how much of the mapping of a file is locked in memory.
func lockedKiB(t *testing.T, path string) (sum int) {
	t.Helper()
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	ours := false
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		line := lines.Text()
		if f := strings.Fields(line); len(f) >= 5 && strings.Contains(f[0], "-") {
			ours = len(f) > 5 && strings.HasPrefix(f[5], path)
		}
		var n int
		if _, err := fmt.Sscanf(line, "Locked: %d kB", &n); err == nil && ours {
			sum += n
		}
	}
	return sum
}

func TestResidentFileIsLockedInMemory(t *testing.T) {
	for _, resident := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "db")
		f, err := Open(path, Options{InitialMmapBytes: 1 << 20, Resident: resident})
		if err != nil {
			t.Fatal(err)
		}
		fill(t, f, 0, 10_000) // grows the file, past its first mapping
		if err := f.DropCache(); err != nil {
			t.Error(err)
		}
		if n := lockedKiB(t, path); (n*1024 >= int(f.InUse())) != resident || (n > 0) != resident {
			t.Errorf("resident %t: %d KiB of %d bytes are locked", resident, n, f.InUse())
		}
		if err := f.Defragment(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := lockedKiB(t, path); (n*1024 >= int(f.InUse())) != resident || (n > 0) != resident {
			t.Errorf("resident %t, defragmented: %d KiB of %d bytes are locked", resident, n, f.InUse())
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// limitLocking makes RLIMIT_MEMLOCK hold for root, too, on this goroutine.
func limitLocking(t *testing.T) (undo func()) {
	t.Helper()
	thread := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var was [2]unix.CapUserData // of 32 capabilities each
	runtime.LockOSThread()
	if err := unix.Capget(&thread, &was[0]); err != nil {
		t.Fatal(err)
	}
	less := was
	less[0].Effective &^= 1 << unix.CAP_IPC_LOCK
	if err := unix.Capset(&thread, &less[0]); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Capset(&thread, &was[0]); err != nil {
			t.Fatal(err) // with the thread: it stays locked
		}
		runtime.UnlockOSThread()
	}
}

func TestLimitOnLockedMemoryIsNamed(t *testing.T) {
	defer limitLocking(t)()
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 0, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_MEMLOCK, &was)
	f, err := Open(filepath.Join(t.TempDir(), "db"), Options{InitialMmapBytes: 1 << 20, Resident: true})
	if err == nil {
		f.Close()
		t.Fatal("it was locked in spite of the limit")
	}
	if !errors.Is(err, ErrMemoryLimit) || !strings.Contains(err.Error(), "LimitMEMLOCK") {
		t.Errorf("%v", err)
	}
}
