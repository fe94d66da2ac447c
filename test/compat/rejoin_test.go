package compat

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"kvd/test/oracle"
)

// victims are clusters whose last member is kvd's, and goes wrong.
func victims(t *testing.T, run func(t *testing.T, c *oracle.Cluster, bad *oracle.Member, good *clientv3.Client)) {
	for name, make := range map[string]func() []oracle.Binary{
		"among kvd's":  func() []oracle.Binary { return []oracle.Binary{oracle.Kvd(t)} },
		"among etcd's": func() []oracle.Binary { return []oracle.Binary{oracle.Etcd(t), oracle.Etcd(t), oracle.Kvd(t)} },
	} {
		t.Run(name, func(t *testing.T) {
			c := oracle.StartCluster(t, make(), oracle.ClusterOptions{Size: 3, Args: []string{"--corrupt-check-time=1s"}})
			good := c.Client(t, 0)
			for i := range 20 {
				putIn(t, good, fmt.Sprint("k", i))
			}
			run(t, c, c.Members[2], good)
		})
	}
}

func putIn(t *testing.T, c *clientv3.Client, key string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := c.Put(ctx, key, "v"); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

// spoil changes one byte of the newest value in a database.
func spoil(t *testing.T, m *oracle.Member) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(m.DataDir, "member", "snap", "db"), 0o600, &bolt.Options{Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("key"))
		k, v := b.Cursor().Last()
		spoilt := append([]byte(nil), v...)
		spoilt[len(spoilt)-1] ^= 1
		return b.Put(append([]byte(nil), k...), spoilt)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// wantUnfit waits for the end of a member that must be replaced.
func wantUnfit(t *testing.T, m *oracle.Member, said string) {
	t.Helper()
	exit, err := m.Wait(30 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if exit.ExitCode() != 65 || !strings.Contains(m.Log(), said) || strings.Contains(m.Log(), "goroutine ") {
		t.Fatalf("it ended with %s and without %q, or with a trace", exit, said)
	}
}

// rejoin replaces a member that is stopped, starts it, and waits until it is as
// good as the others.
func rejoin(t *testing.T, m *oracle.Member, good *clientv3.Client) {
	t.Helper()
	out := m.Binary.MustRun(t, "member", "rejoin", "--yes", "--name="+m.Name, "--data-dir="+m.DataDir,
		"--listen-client-urls="+m.ClientURL, "--advertise-client-urls="+m.ClientURL,
		"--listen-peer-urls="+m.PeerURL, "--initial-advertise-peer-urls="+m.PeerURL)
	t.Log(out)
	m.Restart() // with the options that it was founded with
	until(t, "its vote", func(ctx context.Context) error {
		list, err := good.MemberList(ctx)
		if err != nil {
			return err
		}
		for _, member := range list.Members {
			if member.IsLearner {
				return fmt.Errorf("%x is a learner", member.ID)
			}
		}
		return nil
	})
	putIn(t, good, "after")
	until(t, "equal hashes", func(ctx context.Context) error {
		first, err := good.HashKV(ctx, good.Endpoints()[0], 0)
		if err != nil {
			return err
		}
		second, err := good.HashKV(ctx, m.ClientURL, first.Header.Revision)
		if err != nil {
			return err
		}
		if first.Hash != second.Hash {
			return fmt.Errorf("%d and %d", first.Hash, second.Hash)
		}
		return nil
	})
	until(t, "the end of the note", func(context.Context) error {
		if _, err := os.Stat(filepath.Join(m.DataDir, "kvd-rejoin.json")); err == nil {
			return fmt.Errorf("it is there")
		}
		return nil
	})
	if aside, err := filepath.Glob(filepath.Join(m.DataDir, "member.bad-*")); err != nil || len(aside) != 1 {
		t.Errorf("set aside are %v, %v", aside, err)
	}
}

func until(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited for %s: %v", what, err)
		case <-look.C:
		}
	}
}

func TestAMemberWithOtherDataDoesNotStartAndRejoins(t *testing.T) {
	victims(t, func(t *testing.T, _ *oracle.Cluster, bad *oracle.Member, good *clientv3.Client) {
		bad.Stop()
		spoil(t, bad)
		bad.Relaunch()
		wantUnfit(t, bad, "this member's data differs from that of most members")
		rejoin(t, bad, good)
	})
}

func TestAMemberWithAnOldCopyOfItsDataEndsAndRejoins(t *testing.T) {
	victims(t, func(t *testing.T, _ *oracle.Cluster, bad *oracle.Member, good *clientv3.Client) {
		bad.Stop()
		old := filepath.Join(t.TempDir(), "old")
		if err := os.CopyFS(old, os.DirFS(bad.DataDir)); err != nil {
			t.Fatal(err)
		}
		bad.Restart()
		for i := range 20 {
			putIn(t, good, fmt.Sprint("late", i))
		}
		until(t, "the member to have all", func(ctx context.Context) error {
			first, err := good.Status(ctx, good.Endpoints()[0])
			if err != nil {
				return err
			}
			last, err := good.Status(ctx, bad.ClientURL)
			if err == nil && last.Header.Revision != first.Header.Revision {
				err = fmt.Errorf("it is at %d of %d", last.Header.Revision, first.Header.Revision)
			}
			return err
		})
		bad.Kill()
		if err := os.RemoveAll(bad.DataDir); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(bad.DataDir, os.DirFS(old)); err != nil {
			t.Fatal(err)
		}
		bad.Relaunch()
		wantUnfit(t, bad, "this member's log has lost what it acknowledged")
		rejoin(t, bad, good)
	})
}

func TestAMemberThatIsFoundCorruptStopsTheClusterUntilItRejoins(t *testing.T) {
	victims(t, func(t *testing.T, c *oracle.Cluster, bad *oracle.Member, good *clientv3.Client) {
		bad.Stop()
		spoil(t, bad)
		bad.Args = append(bad.Args, "--feature-gates=InitialCorruptCheck=false")
		bad.Restart()
		id := uint64(0)
		until(t, "the alarm", func(ctx context.Context) error {
			alarms, err := good.AlarmList(ctx)
			if err != nil || len(alarms.Alarms) == 0 {
				return fmt.Errorf("%v, %w", alarms, err)
			}
			if a := alarms.Alarms[0]; a.Alarm != pb.AlarmType_CORRUPT || len(alarms.Alarms) > 1 {
				t.Fatalf("alarms are %v", alarms.Alarms)
			}
			id = alarms.Alarms[0].MemberID
			return nil
		})
		status, err := good.Status(t.Context(), bad.ClientURL)
		if err != nil || status.Header.MemberId != id {
			t.Fatalf("alarmed is %x; the bad one is %v, %v", id, status, err)
		}
		if _, err := good.Put(t.Context(), "k", "v"); err == nil || !strings.Contains(err.Error(), "corrupt cluster") {
			t.Errorf("a put: %v", err)
		}
		until(t, "the member to say so", func(context.Context) error {
			if !strings.Contains(bad.Log(), "the data of this member is not what the other members hold") {
				return fmt.Errorf("it does not")
			}
			return nil
		})
		bad.Stop()
		rejoin(t, bad, good)
	})
}
