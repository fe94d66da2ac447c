package compat

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"kvd/test/oracle"
)

// bigSnapshot writes a snapshot of n keys without a server, which would take
// minutes. Every key was written once.
func bigSnapshot(t *testing.T, n, valueBytes int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "big.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true, NoGrowSync: true})
	if err != nil {
		t.Fatal(err)
	}
	value := make([]byte, valueBytes)
	for at := 0; at < n; {
		err := db.Update(func(tx *bolt.Tx) error {
			keys, err := tx.CreateBucketIfNotExists([]byte("key"))
			if err != nil {
				return err
			}
			keys.FillPercent = 0.9
			for end := min(at+50_000, n); at < end; at++ {
				rev := int64(at + 2)
				row := append(binary.BigEndian.AppendUint64(nil, uint64(rev)), "_\x00\x00\x00\x00\x00\x00\x00\x00"...)
				for i := range 4 { // no two alike
					binary.LittleEndian.PutUint64(value[i*16:], uint64(at*4+i)*0x9E3779B97F4A7C15)
				}
				kv, err := proto.Marshal(&mvccpb.KeyValue{
					Key: fmt.Appendf(nil, "/registry/things/%07d", at), Value: value, CreateRevision: rev, ModRevision: rev, Version: 1,
				})
				if err != nil {
					return err
				}
				if err := keys.Put(row, kv); err != nil {
					return err
				}
			}
			meta, err := tx.CreateBucketIfNotExists([]byte("meta"))
			if err != nil {
				return err
			}
			return errors.Join(meta.Put([]byte("storageVersion"), []byte("3.7.0")),
				meta.Put([]byte("consistent_index"), binary.BigEndian.AppendUint64(nil, uint64(at+5))),
				meta.Put([]byte("term"), binary.BigEndian.AppendUint64(nil, 2)))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	addDigest(t, path)
	return path
}

// addDigest makes a snapshot of a database.
func addDigest(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(sum.Sum(nil)); err != nil {
		t.Fatal(err)
	}
}

// peak runs a program and returns the most memory that it ever had resident,
// files that it had mapped included, and what it showed on a terminal.
func peak(t *testing.T, bin oracle.Binary, args ...string) (bytes int64, shown string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), bin.Path, args...)
	terminal, screen := pseudoTerminal(t)
	defer terminal.Close()
	cmd.Stderr, cmd.Dir = screen, t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")} // no GOMEMLIMIT
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	screen.Close()
	written := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(terminal) // EIO when the program has ended
		written <- string(b)
	}()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		select {
		case err := <-ended:
			tick.Stop()
			text := <-written
			if err != nil {
				t.Fatalf("%q: %v\n%s", args, err, text)
			}
			return bytes, text
		case <-tick.C:
			bytes = max(bytes, highWater(cmd.Process.Pid))
		}
	}
}

// pseudoTerminal opens one: what a program writes to the screen is read from the
// terminal.
func pseudoTerminal(t *testing.T) (terminal, screen *os.File) {
	t.Helper()
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(terminal.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return terminal, screen
}

// highWater is VmHWM of a process; 0 when it is gone.
func highWater(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// What is mapped counts, too; so a snapshot that is read whole at some point
// takes more than its size.
func TestAMillionKeysAreRestoredWithinHalfAGibibyte(t *testing.T) {
	if testing.Short() {
		t.Skip("a million keys")
	}
	const keys, limit = 1_000_000, 512 << 20
	file := bigSnapshot(t, keys, 120)
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	began := time.Now()
	got, shown := peak(t, oracle.Kvd(t), "snapshot", "restore", file, "--data-dir", dir)
	t.Logf("%d MiB restored within %d MiB, in %v", info.Size()>>20, got>>20, time.Since(began))
	if got == 0 || got > min(limit, info.Size()) {
		t.Errorf("%d MiB were resident", got>>20)
	}
	if !strings.Contains(shown, "\rcopying the database [###") || !strings.Contains(shown, "% ") && !strings.Contains(shown, " %") {
		t.Errorf("no progress on the terminal: %q", shown)
	}
	var s snapshotStatus
	status := ask(t, oracle.Kvd(t), "snapshot", "status", filepath.Join(dir, "member/snap/db"))
	if _, err := fmt.Sscanf(status.out, "%x, %d, %d,", &s.Hash, &s.Revision, &s.TotalKey); err != nil {
		t.Fatalf("%v\n%s%s", err, status.out, status.errs)
	}
	if s.Revision != keys+1+1_000_000_000 || s.TotalKey != keys+1 {
		t.Errorf("restored: %+v", s)
	}
}
