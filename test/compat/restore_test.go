package compat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/test/oracle"
)

// spoken is what a program wrote and how it ended.
type spoken struct {
	out, errs string
	status    int
}

// ask runs a tool that works on files.
func ask(t *testing.T, bin oracle.Binary, args ...string) (s spoken) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin.Path, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.Env = &out, &errs, t.TempDir(), oracle.Environment()
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return spoken{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// kubernetesSnapshot is the recorded one.
func kubernetesSnapshot(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "snapshot.db")
	unpackFile(t, filepath.Join(kubernetes, "snapshot.db.xz"), file)
	return file
}

// rowsOf are all rows of a database, by bucket and key.
func rowsOf(t *testing.T, path string) map[string]string {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows := map[string]string{}
	err = db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(bucket []byte, b *bolt.Bucket) error {
			rows[string(bucket)] = ""
			return b.ForEach(func(k, v []byte) error {
				rows[fmt.Sprintf("%s %q", bucket, k)] = string(v)
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// wantSameMember compares two restored directories, file by file.
func wantSameMember(t *testing.T, ours, theirs, ourWAL, theirWAL string) {
	t.Helper()
	a, b := rowsOf(t, filepath.Join(ours, "member/snap/db")), rowsOf(t, filepath.Join(theirs, "member/snap/db"))
	// Theirs is that of the old cluster, and nobody reads it.
	var conf struct{ Voters []uint64 }
	if err := json.Unmarshal([]byte(a[`meta "confState"`]), &conf); err != nil || len(conf.Voters) == 0 {
		t.Errorf("conf state %q: %v", a[`meta "confState"`], err)
	}
	delete(a, `meta "confState"`)
	delete(b, `meta "confState"`)
	if !reflect.DeepEqual(a, b) {
		for k := range b {
			if a[k] != b[k] {
				t.Errorf("row %s: %q, etcdutl writes %q", k, a[k], b[k])
			}
		}
		t.Errorf("%d rows, etcdutl writes %d", len(a), len(b))
	}
	if x, y := read(t, filepath.Join(ourWAL, "*.wal")), read(t, filepath.Join(theirWAL, "*.wal")); x != y {
		t.Errorf("the logs differ:\n%x\n%x", strings.TrimRight(x, "\x00"), strings.TrimRight(y, "\x00"))
	}
	var names [2][]string
	for i, dir := range []string{ours, theirs} {
		all, err := filepath.Glob(filepath.Join(dir, "member/*/*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range all {
			names[i] = append(names[i], strings.TrimPrefix(name, dir))
		}
	}
	if !slices.Equal(names[0], names[1]) {
		t.Errorf("files %q, etcdutl writes %q", names[0], names[1])
	}
}

// read reads the one file of that pattern.
func read(t *testing.T, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) != 1 {
		t.Fatalf("%s: %q, %v", pattern, names, err)
	}
	b, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRestoreWritesWhatEtcdutlWrites(t *testing.T) {
	t.Parallel()
	file := kubernetesSnapshot(t)
	unpacked := t.TempDir()
	unpack(t, filepath.Join(kubernetes, "data-dir.tar.xz"), unpacked)
	for name, c := range map[string]struct {
		file         string
		flags, plain []string // for both; for kvd alone
	}{
		"one":       {file, nil, []string{"--bump-revision=0"}},
		"not, said": {file, nil, []string{"--mark-compacted=false"}},
		"three": {file, []string{
			"--name=b", "--initial-cluster=a=http://127.0.0.1:1,b=http://127.0.0.1:2,b=http://127.0.0.2:2,c=https://127.0.0.1:3",
			"--initial-advertise-peer-urls=http://127.0.0.2:2,http://127.0.0.1:2", "--initial-cluster-token=x",
		}, []string{"--bump-revision=0"}},
		"bumped":       {file, []string{"--bump-revision=1000", "--mark-compacted"}, nil},
		"by standard":  {file, nil, nil},
		"data of dirs": {filepath.Join(unpacked, "member/snap/db"), []string{"--skip-hash-check"}, []string{"--bump-revision=0"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ours, theirs := filepath.Join(t.TempDir(), "d"), filepath.Join(t.TempDir(), "d")
			args := append([]string{"snapshot", "restore", c.file}, c.flags...)
			oracle.Kvd(t).MustRun(t, append(append(args, "--data-dir="+ours), c.plain...)...)
			args = append(args, "--data-dir="+theirs)
			if name == "by standard" {
				args = append(args, "--bump-revision=1000000000", "--mark-compacted")
			}
			oracle.Etcdutl(t).MustRun(t, args...)
			wantSameMember(t, ours, theirs, filepath.Join(ours, "member/wal"), filepath.Join(theirs, "member/wal"))
		})
	}
}

func TestRestorePutsTheLogWhereItIsTold(t *testing.T) {
	t.Parallel()
	file := kubernetesSnapshot(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	oracle.Kvd(t).MustRun(t, "snapshot", "restore", file, "--data-dir", at("ours"), "--wal-dir", at("our wal"), "--bump-revision=0")
	oracle.Etcdutl(t).MustRun(t, "snapshot", "restore", file, "--data-dir", at("theirs"), "--wal-dir", at("their wal"))
	wantSameMember(t, at("ours"), at("theirs"), at("our wal"), at("their wal"))
}

// What etcdutl refuses is refused, with its words and its status, and nothing is
// left behind.
func TestRestoreRefusesWhatEtcdutlRefuses(t *testing.T) {
	t.Parallel()
	file := kubernetesSnapshot(t)
	bad := filepath.Join(t.TempDir(), "bad")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(t.TempDir(), "plain")
	for path, content := range map[string][]byte{bad: append(slices.Clone(b[:len(b)-1]), ^b[len(b)-1]), plain: b[:len(b)-32]} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	occupied := t.TempDir()
	if err := os.WriteFile(filepath.Join(occupied, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		word string
	}{
		"no argument":            {nil, "snapshot restore requires exactly one argument"},
		"two arguments":          {[]string{file, file}, "snapshot restore requires exactly one argument"},
		"no such file":           {[]string{"/none"}, "no such file or directory"},
		"wrong digest":           {[]string{bad}, "expected"},
		"no digest":              {[]string{plain}, "snapshot missing hash but --skip-hash-check=false"},
		"occupied":               {[]string{file, "--data-dir=" + occupied}, "not empty or could not be read"},
		"occupied log":           {[]string{file, "--data-dir=d", "--wal-dir=" + occupied}, "exists"},
		"not in the cluster":     {[]string{file, "--name=z"}, `couldn't find local name "z" in the initial cluster configuration`},
		"advertised differently": {[]string{file, "--initial-advertise-peer-urls=http://127.0.0.1:7"}, "--initial-cluster"},
		"bad URL":                {[]string{file, "--initial-cluster=default=ftp://h:1"}, "URL scheme must be http, https, unix, or unixs"},
		"bump, not compacted":    {[]string{file, "--bump-revision=3", "--mark-compacted=false"}, "--mark-compacted required if"},
		"compacted, no bump":     {[]string{file, "--bump-revision=0", "--mark-compacted"}, "--mark-compacted required if"},
		"unknown flag":           {[]string{file, "--nope"}, "unknown flag: --nope"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			run := func(bin oracle.Binary, dir string) spoken {
				args := append([]string{"snapshot", "restore"}, c.args...)
				if !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--data-dir") }) {
					args = append(args, "--data-dir="+filepath.Join(dir, "d"))
				}
				return ask(t, bin, args...)
			}
			ours, theirs := run(oracle.Kvd(t), dir), run(oracle.Etcdutl(t), t.TempDir())
			if !strings.Contains(theirs.errs, c.word) {
				t.Fatalf("etcdutl says\n%s", theirs.errs)
			}
			if !strings.Contains(ours.errs, c.word) {
				t.Errorf("kvd says\n%setcdutl\n%s", ours.errs, theirs.errs)
			}
			if ours.status != theirs.status {
				t.Errorf("status %d, etcdutl's is %d", ours.status, theirs.status)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// One snapshot makes a whole cluster, of members of both kinds.
func TestWholeClusterIsRestoredFromOneSnapshot(t *testing.T) {
	t.Parallel()
	file, before := saved(t)
	var options []oracle.Options
	var initial []string
	for _, name := range []string{"r1", "r2", "r3"} {
		o := oracle.Options{
			Name: name, Token: "restored", DataDir: filepath.Join(t.TempDir(), "data"),
			PeerURL: "http://" + oracle.FreeAddress(t), ClientURL: "http://" + oracle.FreeAddress(t),
		}
		options, initial = append(options, o), append(initial, name+"="+o.PeerURL)
	}
	cluster := strings.Join(initial, ",")
	var all []*oracle.Member
	for i, o := range options {
		o.Cluster = cluster
		oracle.Kvd(t).MustRun(t, "snapshot", "restore", file, "--name", o.Name, "--data-dir", o.DataDir, "--initial-cluster", cluster,
			"--initial-cluster-token", o.Token, "--initial-advertise-peer-urls", o.PeerURL)
		bin := target(t)
		if i == 1 {
			bin = oracle.Etcd(t)
		}
		all = append(all, oracle.Launch(t, bin, o))
	}
	for _, m := range all {
		if err := m.Ready(oracle.ReadyWithin); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range all {
		if got, want := revisionOf(t, m), before.keys.Header.Revision+1_000_000_000; got != want {
			t.Errorf("%s: revision %d, want %d", m.Name, got, want)
		}
		r, err := pb.NewKVClient(m.Dial()).Range(context.Background(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
		if err != nil {
			t.Fatal(err)
		}
		for i, kv := range r.Kvs { // the row that raised the revision is a key of no length, as with etcd
			if len(kv.Key) == 0 {
				r.Kvs = slices.Delete(r.Kvs, i, i+1)
				break
			}
		}
		if len(r.Kvs) != len(before.keys.Kvs) {
			t.Fatalf("%s: %d keys, want %d", m.Name, len(r.Kvs), len(before.keys.Kvs))
		}
		for i, kv := range r.Kvs {
			if kv.String() != before.keys.Kvs[i].String() {
				t.Errorf("%s: %v, want %v", m.Name, kv, before.keys.Kvs[i])
			}
		}
		if n := len(membersOf(t, m).Members); n != 3 {
			t.Errorf("%s knows %d members", m.Name, n)
		}
	}
	write(t, all[2])
}

func TestSnapshotStatusIsPrintedAsEtcdutlPrintsIt(t *testing.T) {
	t.Parallel()
	file := kubernetesSnapshot(t)
	bumped := filepath.Join(t.TempDir(), "data")
	oracle.Kvd(t).MustRun(t, "snapshot", "restore", file, "--data-dir", bumped)
	own, _ := saved(t)
	for _, path := range []string{file, filepath.Join(bumped, "member/snap/db"), own} {
		for _, flags := range [][]string{nil, {"-w", "json"}, {"-w=fields"}, {"--write-out", "table"}, {"-w=simple", "--timeout=5s"}, {"-w=protobuf"}, {"-w=none"}} {
			args := append(slices.Clone(flags), "snapshot", "status", path) // as etcd's manual has them
			if len(flags) != 1 {
				args = append([]string{"snapshot", "status", path}, flags...)
			}
			ours, theirs := ask(t, oracle.Kvd(t), args...), ask(t, oracle.Etcdutl(t), args...)
			if ours.out != theirs.out || ours.status != theirs.status {
				t.Errorf("%q: status %d and\n%setcdutl %d and\n%s", args, ours.status, ours.out, theirs.status, theirs.out)
			}
		}
	}
	for _, args := range [][]string{{}, {"/none"}, {file, file}, {file, "--nope"}, {t.TempDir()}, {os.DevNull}} {
		args = append([]string{"snapshot", "status"}, args...)
		if ours, theirs := ask(t, oracle.Kvd(t), args...), ask(t, oracle.Etcdutl(t), args...); ours.status != theirs.status || ours.out != theirs.out {
			t.Errorf("%q: status %d and %q, etcdutl %d and %q", args, ours.status, ours.errs, theirs.status, theirs.errs)
		}
	}
}
