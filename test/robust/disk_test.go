package robust

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kvd/test/oracle"
)

// smallDisk mounts a file system of so many bytes, and returns where and how
// to make it larger.
func smallDisk(t *testing.T, size string) (dir string, grow func(size string)) {
	t.Helper()
	dir = t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+size)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir, func(size string) {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "mode=0700,size="+size); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullDiskEndsTheProcessWithoutAcknowledging(t *testing.T) {
	dir, grow := smallDisk(t, "200m")
	o := oracle.Options{DataDir: filepath.Join(dir, "data"), Args: quick}
	m := oracle.Start(t, judged(t), o)
	acked := fill(t, m)
	exit, err := m.Wait(30 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if exit.InOrder() {
		t.Errorf("the process ended with %s on a full disk", exit)
	}
	for _, word := range []string{"no space left on device", "member/"} { // why and where
		if !strings.Contains(m.Log(), word) {
			t.Errorf("the log does not say %q", word)
		}
	}
	noTrace(t, m)

	grow("600m")
	m = oracle.Start(t, judged(t), o)
	keys := pb.NewKVClient(m.Dial())
	for i := range acked {
		r, err := keys.Range(context.Background(), &pb.RangeRequest{Key: fillKey(i)})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Kvs) != 1 || !bytes.Equal(r.Kvs[0].Value, fillValue(i)) {
			t.Fatalf("key %d of %d acknowledged is lost or another", i, acked)
		}
	}
	all, err := keys.Range(context.Background(), &pb.RangeRequest{Key: []byte("fill/"), RangeEnd: []byte("fill0"), CountOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if all.Count > int64(acked+1) { // the last may have been done without being acknowledged
		t.Errorf("%d keys, %d were acknowledged", all.Count, acked)
	}
	if _, err := keys.Put(context.Background(), &pb.PutRequest{Key: []byte("after")}); err != nil {
		t.Errorf("put with space again: %v", err)
	}
	t.Logf("%d puts acknowledged before the disk was full", acked)
}

func fillKey(i int) []byte   { return fmt.Appendf(nil, "fill/%04d", i) }
func fillValue(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%08d", i), 64<<10) }

// fill puts until the server fails and returns how many were acknowledged.
func fill(t *testing.T, m *oracle.Member) (acked int) {
	t.Helper()
	keys := pb.NewKVClient(m.Dial())
	for i := range 4000 {
		ctx, cancel := context.WithTimeout(context.Background(), answerIn)
		_, err := keys.Put(ctx, &pb.PutRequest{Key: fillKey(i), Value: fillValue(i)})
		cancel()
		if status.Code(err) == codes.Unavailable {
			return i
		}
		if err != nil {
			t.Fatalf("put %d: %v", i, err)
		}
	}
	t.Fatal("the disk does not fill up")
	return 0
}

// noTrace checks that a server spoke of a fault of the world in words, and did
// not fall over it.
func noTrace(t *testing.T, m *oracle.Member) {
	t.Helper()
	for _, word := range []string{"goroutine ", "panic: ", "SIGBUS"} {
		if strings.Contains(m.Log(), word) {
			t.Errorf("the process ended in a trace: its log has %q", word)
		}
	}
}

// filled is a data directory with a log and a database worth breaking, and how
// many keys are in it.
func filled(t *testing.T) (o oracle.Options, keys int) {
	t.Helper()
	o = oracle.Options{DataDir: filepath.Join(t.TempDir(), "data"), Args: quick}
	m := oracle.Start(t, judged(t), o)
	kv := pb.NewKVClient(m.Dial())
	const n = 500
	for i := range n {
		put := &pb.PutRequest{Key: fillKey(i), Value: bytes.Repeat([]byte{byte(i)}, 2000)}
		if _, err := kv.Put(context.Background(), put); err != nil {
			t.Fatal(err)
		}
	}
	m.Stop()
	return o, n
}

// A fault is one way to break a file of a data directory.
type fault struct {
	name  string
	file  string // a pattern below the data directory
	smash func(content []byte) []byte
	says  []string // beside the file's name
}

var faults = []fault{
	{"a byte of the log's middle", "member/wal/*.wal", func(b []byte) []byte {
		b[used(b)/2] ^= 0xff
		return b
	}, []string{"offset"}},
	{"a stretch of the log's middle", "member/wal/*.wal", func(b []byte) []byte {
		copy(b[used(b)/3:], bytes.Repeat([]byte{0xa5}, 300))
		return b
	}, []string{"offset"}},
	{"the log's first bytes", "member/wal/*.wal", func(b []byte) []byte {
		copy(b, bytes.Repeat([]byte{0xa5}, 64))
		return b
	}, []string{"offset"}},
	{"both meta pages of the database", "member/snap/db", func(b []byte) []byte {
		copy(b, bytes.Repeat([]byte{0xa5}, 2*4096))
		return b
	}, nil},
	{"every page of the database", "member/snap/db", func(b []byte) []byte {
		for at := 2 * 4096; at+16 < len(b); at += 4096 {
			copy(b[at+8:at+16], bytes.Repeat([]byte{0xa5}, 8))
		}
		return b
	}, nil},
	{"the end of the database", "member/snap/db", func(b []byte) []byte { return b[:8*4096] }, nil},
	{"all of the database", "member/snap/db", func([]byte) []byte { return []byte("not a database") }, nil},
}

// used is how much of a log's file holds records; the rest is zeroes.
func used(b []byte) int { return len(bytes.TrimRight(b, "\x00")) }

func TestBrokenFileIsRefused(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			o, _ := filled(t)
			names, err := filepath.Glob(filepath.Join(o.DataDir, f.file))
			if err != nil || len(names) == 0 {
				t.Fatalf("no %s: %v", f.file, err)
			}
			content, err := os.ReadFile(names[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(names[0], f.smash(content), 0o600); err != nil {
				t.Fatal(err)
			}
			before := contents(t, o.DataDir)
			m := oracle.Launch(t, judged(t), o)
			exit, err := m.Wait(20 * time.Second)
			if err != nil {
				t.Fatalf("started on it: %v", err)
			}
			if exit.InOrder() {
				t.Errorf("ended with %s", exit)
			}
			for _, word := range append(f.says, filepath.Base(names[0])) {
				if !strings.Contains(m.Log(), word) {
					t.Errorf("the log does not say %q", word)
				}
			}
			noTrace(t, m)
			after := contents(t, o.DataDir)
			for name, was := range before {
				if now, there := after[name]; !there || !bytes.Equal(now, was) {
					t.Errorf("%s was changed: %d bytes before, %d after", name, len(was), len(now))
				}
			}
			t.Logf("it says:\n%s", lastLines(m.Log(), 3))
		})
	}
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// contents reads all files of a directory that hold data.
func contents(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, "/member/snap/db") && !strings.HasSuffix(path, ".wal") {
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// The last record of a log may be cut short by a crash. It was not
// acknowledged, so the log is repaired and the member goes on.
func TestTornTailOfTheLogIsRepaired(t *testing.T) {
	for name, tear := range map[string]func(content []byte, at int) []byte{
		"the rest is zeroes":    func(b []byte, at int) []byte { clear(b[at:]); return b },
		"the file ends":         func(b []byte, at int) []byte { return b[:at] },
		"the file ends with it": func(b []byte, at int) []byte { return b[:at-at%512] },
		"one sector is missing": func(b []byte, at int) []byte { at -= at % 512; clear(b[at : at+512]); return b[:at+4096] },
		"only its first sector": func(b []byte, _ int) []byte { at := large(b); clear(b[at-at%512+512:]); return b },
	} {
		t.Run(name, func(t *testing.T) {
			o, n := filled(t)
			spare := filepath.Join(t.TempDir(), "spare")
			if err := os.CopyFS(spare, os.DirFS(o.DataDir)); err != nil {
				t.Fatal(err)
			}
			m := oracle.Start(t, judged(t), o)
			put := &pb.PutRequest{Key: []byte("large"), Value: bytes.Repeat([]byte("large "), 5000)}
			if _, err := pb.NewKVClient(m.Dial()).Put(context.Background(), put); err != nil {
				t.Fatal(err)
			}
			m.Kill()
			// The database from before, and the log as if its last write had
			// been cut short.
			log := logOf(t, o.DataDir)
			content, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			content = tear(content, large(content)+15_000)
			o.DataDir = spare
			if err := os.WriteFile(logOf(t, spare), content, 0o600); err != nil {
				t.Fatal(err)
			}
			m = oracle.Start(t, judged(t), o)
			all, err := pb.NewKVClient(m.Dial()).Range(context.Background(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			if all.Count != int64(n) {
				t.Errorf("%d keys, not the %d from before", all.Count, n)
			}
		})
	}
}

// logOf returns the newest file of a directory's log.
func logOf(t *testing.T, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "member/wal/*.wal"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no log in %s: %v", dir, err)
	}
	return names[len(names)-1]
}

// large returns where the log's record of more than 20 kB begins.
func large(content []byte) int {
	for at := 0; at+8 < len(content); {
		word := binary.LittleEndian.Uint64(content[at:])
		size, pad := int(word&(1<<56-1)), int(word>>56&7)
		if size == 0 {
			break
		}
		if size > 20_000 {
			return at
		}
		at += 8 + size + pad
	}
	panic("no large record in the log")
}
