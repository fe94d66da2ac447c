package store

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

type committer interface {
	Commit(s Stamp, batches ...*Batch) error
	Read() (Reader, error)
	Close() error
}

// kinds are the stores that must not differ.
var kinds = map[string]func(*testing.T) committer{
	"File": func(t *testing.T) committer {
		return open(t, filepath.Join(t.TempDir(), "db"))
	},
	"Mem": func(*testing.T) committer { return NewMem() },
}

func open(t *testing.T, path string) *File {
	t.Helper()
	f, err := Open(path, Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestConversation(t *testing.T) {
	for name, fresh := range kinds {
		t.Run(name, func(t *testing.T) {
			s := fresh(t)
			readers := map[string]Reader{}
			batches := []*Batch{{}}
			converse(t, "testdata/conformance.txt", func(c []string) string {
				return talk(t, s, readers, &batches, c)
			})
			for _, r := range readers {
				if err := errors.Join(r.Close(), r.Close()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func talk(t *testing.T, s committer, readers map[string]Reader, batches *[]*Batch, c []string) string {
	last := (*batches)[len(*batches)-1]
	for len(c) < 4 {
		c = append(c, "")
	}
	switch c[0] {
	case "put":
		last.Put(Bucket(c[1]), []byte(c[2]), []byte(c[3]))
	case "putx":
		last.Put(Bucket(c[1]), unhex(t, c[2]), unhex(t, c[3]))
	case "delete":
		last.Delete(Bucket(c[1]), []byte(c[2]))
	case "next":
		*batches = append(*batches, &Batch{})
	case "commit":
		index, _ := strconv.ParseUint(c[1], 10, 64)
		term, _ := strconv.ParseUint(c[2], 10, 64)
		if err := s.Commit(Stamp{index, term}, *batches...); err != nil {
			t.Fatal(err)
		}
		*batches = []*Batch{{}}
	case "read":
		r, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		readers[c[1]] = r
	case "stamp":
		at := readers[c[1]].Stamp()
		return fmt.Sprintf("index %d term %d\n", at.Index, at.Term)
	case "value":
		v := readers[c[1]].Value(Bucket(c[2]), []byte(c[3]))
		switch {
		case v == nil:
			return "none\n"
		case len(v) == 0:
			return "empty\n"
		}
		return string(v) + "\n"
	case "scan", "scanx", "first":
		return scan(readers[c[1]], c)
	default:
		t.Fatalf("unknown command %v", c)
	}
	return ""
}

func scan(r Reader, c []string) string {
	var out strings.Builder
	var to []byte
	if len(c) > 4 {
		to = []byte(c[4])
	}
	r.Scan(Bucket(c[2]), []byte(c[3]), to, func(key, value []byte) bool {
		if c[0] == "scanx" {
			fmt.Fprintf(&out, "%x=%x\n", key, value)
		} else {
			fmt.Fprintf(&out, "%s=%s\n", key, value)
		}
		return c[0] != "first"
	})
	return out.String()
}

func unhex(t *testing.T, s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestMemIsTheTwinOfFile commits the same random rows to both.
func TestMemIsTheTwinOfFile(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	file, mem := kinds["File"](t), kinds["Mem"](t)
	for index := uint64(1); index <= 60; index++ {
		ops := make([][3]string, random.IntN(200))
		for i := range ops {
			ops[i] = [3]string{string(buckets[random.IntN(3)]), fmt.Sprint(random.IntN(150)), fmt.Sprint(random.Uint32())}
		}
		split := random.IntN(len(ops) + 1)
		gone := random.Uint64()
		for _, s := range []committer{file, mem} {
			var batches [2]Batch
			for i, op := range ops {
				b := &batches[0]
				if i >= split {
					b = &batches[1]
				}
				if gone>>(i%64)&1 == 1 {
					b.Delete(Bucket(op[0]), []byte(op[1]))
				} else {
					b.Put(Bucket(op[0]), []byte(op[1]), []byte(op[2]))
				}
			}
			if index%2 == 0 { // as two, and as one
				batches[0].Append(&batches[1])
			}
			if err := s.Commit(Stamp{Index: index}, &batches[0], &batches[1]); err != nil {
				t.Fatal(err)
			}
		}
		if a, b := everything(t, file), everything(t, mem); !slices.Equal(a, b) {
			t.Fatalf("after commit %d the file holds\n%q\nand the memory\n%q", index, a, b)
		}
	}
}

func everything(t *testing.T, s committer) (rows []string) {
	t.Helper()
	r, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, bucket := range buckets {
		r.Scan(bucket, nil, nil, func(key, value []byte) bool {
			rows = append(rows, fmt.Sprintf("%s/%s=%s", bucket, key, value))
			return true
		})
	}
	return rows
}

func TestClosedStoreAnswersErrClosed(t *testing.T) {
	for name, fresh := range kinds {
		t.Run(name, func(t *testing.T) {
			s := fresh(t)
			r, err := s.Read()
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(s.Close(), s.Close()); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Read(); !errors.Is(err, ErrClosed) {
				t.Errorf("Read: %v", err)
			}
			if err := s.Commit(Stamp{}); !errors.Is(err, ErrClosed) {
				t.Errorf("Commit: %v", err)
			}
			if at := r.Stamp(); at != (Stamp{}) {
				t.Errorf("the open reader sees %v", at)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestBatchCountsRowsAndBytes(t *testing.T) {
	var a, b Batch
	a.Put(Key, []byte("k"), []byte("value"))
	b.Delete(Key, []byte("kk"))
	b.Put(Meta, []byte("m"), nil)
	if a.Append(&b); a.Len() != 3 || a.Bytes() != len("k"+"value"+"kk"+"m")+3*rowOverhead {
		t.Errorf("%d rows, %d bytes", a.Len(), a.Bytes())
	}
	if b.Len() != 0 || b.Bytes() != 0 || len(b.groups) != 0 {
		t.Errorf("%d rows, %d bytes are left", b.Len(), b.Bytes())
	}
}

func TestSettledGroupAscends(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		var b Batch
		want := map[string]string{}
		for i := range random.IntN(50) {
			key := fmt.Sprint(random.IntN(20))
			b.Put(Key, []byte(key), []byte(fmt.Sprint(i)))
			want[key] = fmt.Sprint(i)
		}
		g := b.group(Key)
		g.settle()
		if len(g.rows) != len(want) {
			t.Fatalf("%d rows of %d keys", len(g.rows), len(want))
		}
		for i, r := range g.rows {
			if i > 0 && bytes.Compare(g.rows[i-1].key, r.key) >= 0 || want[string(r.key)] != string(r.value) {
				t.Fatalf("row %d is %s=%s after %s", i, r.key, r.value, g.rows[max(i-1, 0)].key)
			}
		}
	}
}
