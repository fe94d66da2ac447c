package compat

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/test/oracle"
)

// snapshotStatus is what etcdutl says of a snapshot.
type snapshotStatus struct {
	Hash      uint32
	Revision  int64
	TotalKey  int
	TotalSize int64
	Version   string
}

func statusOf(t *testing.T, file string) (s snapshotStatus) {
	t.Helper()
	out := oracle.Etcdutl(t).MustRun(t, "snapshot", "status", file, "-w", "json")
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("etcdutl snapshot status: %v\n%s", err, out)
	}
	return s
}

// restored makes a data directory of a snapshot with etcdutl and returns the
// options to start on it.
func restored(t *testing.T, file string, flags ...string) oracle.Options {
	t.Helper()
	o := oracle.Options{
		Name: "r1", Token: "restored", PeerURL: "http://" + oracle.FreeAddress(t),
		DataDir: filepath.Join(t.TempDir(), "data"),
	}
	oracle.Etcdutl(t).MustRun(t, append([]string{
		"snapshot", "restore", file, "--name", o.Name, "--data-dir", o.DataDir,
		"--initial-cluster", o.Name + "=" + o.PeerURL, "--initial-cluster-token", o.Token,
		"--initial-advertise-peer-urls", o.PeerURL,
	}, flags...)...)
	return o
}

// saved writes to a fresh member of kvd and saves a snapshot with kvctl.
func saved(t *testing.T) (file string, before state) {
	t.Helper()
	m := oracle.Start(t, target(t), oracle.Options{})
	write(t, m)
	before = stateOf(t, m)
	file = filepath.Join(t.TempDir(), "snapshot.db")
	oracle.Kvctl(t).MustRun(t, "--endpoints", m.ClientURL, "snapshot", "save", file)
	return file, before
}

func TestSnapshotOfKvctlIsRestoredByEtcdutl(t *testing.T) {
	t.Parallel()
	file, before := saved(t)
	s := statusOf(t, file)
	if s.Version != "3.7.0" || s.Revision != before.keys.Header.Revision || s.TotalKey != len(before.keys.Kvs) {
		t.Errorf("etcdutl says %+v of a snapshot of %d keys at revision %d", s, len(before.keys.Kvs), before.keys.Header.Revision)
	}
	o := restored(t, file)
	etcd := oracle.Start(t, oracle.Etcd(t), o)
	after := stateOf(t, etcd)
	before.identity = after.identity // a restored member is another one
	compareStates(t, before, after)
	write(t, etcd)
}

func TestDirectoryThatEtcdutlRestoredIsServed(t *testing.T) {
	t.Parallel()
	file, before := saved(t)
	o := restored(t, file)
	m := oracle.Start(t, target(t), o)
	after := stateOf(t, m)
	before.identity = after.identity
	compareStates(t, before, after)
	write(t, m)
	before = stateOf(t, m)
	m.Stop()
	compareStates(t, before, stateOf(t, oracle.Start(t, oracle.Etcd(t), o)))
}

// A restore can raise the revision, so that clients do not see it go back, and
// mark what was before as compacted, so that they list again.
func TestRestoreWithABumpedRevisionIsAsEtcdServesIt(t *testing.T) {
	t.Parallel()
	file, before := saved(t)
	var told [2]state
	for i, bin := range []oracle.Binary{oracle.Etcd(t), target(t)} {
		o := restored(t, file, "--bump-revision", "1000000", "--mark-compacted")
		m := oracle.Start(t, bin, o)
		if got := revisionOf(t, m); got != before.keys.Header.Revision+1_000_000 {
			t.Errorf("%s: revision %d after a bump of %d by a million", bin.Name, got, before.keys.Header.Revision)
		}
		if _, err := pb.NewKVClient(m.Dial()).Range(context.Background(), &pb.RangeRequest{Key: []byte("a"), Revision: before.keys.Header.Revision}); err == nil {
			t.Errorf("%s: a revision marked as compacted can be read", bin.Name)
		}
		told[i] = stateOf(t, m)
		write(t, m)
	}
	told[1].identity = told[0].identity // their peer URLs differ
	compareStates(t, told[0], told[1])
}

func revisionOf(t *testing.T, m *oracle.Member) int64 {
	t.Helper()
	r, err := pb.NewKVClient(m.Dial()).Range(context.Background(), &pb.RangeRequest{Key: []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	return r.Header.Revision
}

func TestSnapshotOfKubernetesIsRestoredAndServed(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "snapshot.db")
	unpackFile(t, filepath.Join(kubernetes, "snapshot.db.xz"), file)
	want := readRecorded(t)
	checkRecorded(t, oracle.Start(t, target(t), restored(t, file)), want)
}

// The stream itself: pieces of 32 KiB, then the digest of all before.
func TestSnapshotStreamIsCutAsEtcdCutsIt(t *testing.T) {
	t.Parallel()
	for _, bin := range []oracle.Binary{oracle.Etcd(t), target(t)} {
		m := oracle.Start(t, bin, oracle.Options{})
		write(t, m)
		stream, err := pb.NewMaintenanceClient(m.Dial()).Snapshot(context.Background(), &pb.SnapshotRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var parts []*pb.SnapshotResponse
		for {
			part, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", bin.Name, err)
			}
			parts = append(parts, part)
		}
		checkParts(t, bin.Name, parts)
	}
}

func checkParts(t *testing.T, name string, parts []*pb.SnapshotResponse) {
	t.Helper()
	if len(parts) < 2 {
		t.Fatalf("%s: %d parts", name, len(parts))
	}
	left := uint64(0)
	for _, p := range parts[:len(parts)-1] {
		left += uint64(len(p.Blob))
	}
	digest := sha256.New()
	for i, p := range parts {
		what := fmt.Sprintf("%s: part %d of %d", name, i, len(parts))
		if p.Header != nil || p.Version != "3.7.0" {
			t.Errorf("%s: header %v, version %q", what, p.Header, p.Version)
		}
		if i == len(parts)-1 {
			if string(p.Blob) != string(digest.Sum(nil)) || p.RemainingBytes != 0 {
				t.Errorf("%s: %d bytes, %d remaining: not the digest", what, len(p.Blob), p.RemainingBytes)
			}
			return
		}
		digest.Write(p.Blob)
		left -= uint64(len(p.Blob))
		if p.RemainingBytes != left || i < len(parts)-2 && len(p.Blob) != 32<<10 {
			t.Errorf("%s: %d bytes, %d remaining, want %d", what, len(p.Blob), p.RemainingBytes, left)
		}
	}
}

func TestSnapshotWithAWrongDigestIsRefused(t *testing.T) {
	t.Parallel()
	file, _ := saved(t)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := oracle.Etcdutl(t).Run(t, "snapshot", "restore", file, "--data-dir", filepath.Join(t.TempDir(), "data")); err == nil {
		t.Errorf("etcdutl restores a snapshot whose digest is wrong:\n%s", out)
	}
}
