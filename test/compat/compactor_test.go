package compat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3compactor"
)

// compactions is what kvd's compactor is held to in its own tests: when one of
// etcd's compacts, and to which revision. Its headings say what is played.
const compactions = "../../internal/replica/testdata/compactions.txt"

// TestCompactionModesAreEtcds plays all that the file plays with etcd's own
// compactor, by a clock of its own.
func TestCompactionModesAreEtcds(t *testing.T) {
	kept, err := os.ReadFile(compactions)
	if err != nil {
		t.Fatal(err)
	}
	var played bytes.Buffer
	cases := 0
	for line := range strings.Lines(string(kept)) {
		if strings.HasPrefix(line, "#") {
			played.WriteString(line)
			continue
		}
		words := strings.Fields(line)
		if len(words) != 6 {
			continue // it says what was compacted
		}
		cases++
		played.WriteString(line)
		synctest.Test(t, func(t *testing.T) {
			e := &etcdCompactions{began: time.Now(), fails: span(t, words[5]), out: &played}
			retention := time.Duration(0)
			if words[0] == v3compactor.ModeRevision {
				_, err := fmt.Sscan(words[1], &retention)
				if err != nil {
					t.Fatal(err)
				}
			} else {
				retention = span(t, words[1])
			}
			c, err := v3compactor.New(nil, words[0], retention, e, e)
			if err != nil {
				t.Fatal(err)
			}
			c.Run()
			time.Sleep(span(t, words[3]) + time.Millisecond)
			c.Stop()
		})
	}
	if cases < 8 {
		t.Errorf("%d cases", cases)
	}
	if !bytes.Equal(kept, played.Bytes()) {
		t.Errorf("etcd does\n%s\nand kvd is held to\n%s", &played, kept)
	}
}

func span(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// etcdCompactions is a store of which a revision is as old as its number in minutes.
type etcdCompactions struct {
	began time.Time
	fails time.Duration
	out   *bytes.Buffer
}

func (e *etcdCompactions) Rev() int64 { return int64(time.Since(e.began)/time.Minute) + 1 }

func (e *etcdCompactions) Compact(_ context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	at := time.Since(e.began)
	fmt.Fprintf(e.out, "    %v to %d\n", at, r.Revision)
	if at <= e.fails {
		return nil, errors.New("not now")
	}
	return &pb.CompactionResponse{}, nil
}
