package compat

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/test/oracle"
)

// copied is a copy of a file, for a tool that may change it.
func copied(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), filepath.Base(path))
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestHashKVIsPrintedAsEtcdutlPrintsIt(t *testing.T) {
	t.Parallel()
	file := kubernetesSnapshot(t)
	bumped := filepath.Join(t.TempDir(), "data")
	oracle.Kvd(t).MustRun(t, "snapshot", "restore", file, "--data-dir", bumped)
	for _, path := range []string{file, filepath.Join(bumped, "member/snap/db")} {
		before := copied(t, path)
		for _, flags := range [][]string{
			nil,
			{"-w", "json"},
			{"-w=fields"},
			{"--write-out=table"},
			{"-w=protobuf"},
			{"-w=none"},
			{"--rev=2000"},
			{"--rev=1860"},
			{"--rev=1"},
			{"--rev=99999"},
			{"--rev=-1"},
			{"--rev=x"},
		} {
			args := append([]string{"hashkv"}, flags...)
			ours, theirs := ask(t, oracle.Kvd(t), append(args, path)...), ask(t, oracle.Etcdutl(t), append(args, copied(t, before))...)
			if ours.out != theirs.out || ours.status != theirs.status {
				t.Errorf("%q: status %d and\n%s%setcdutl %d and\n%s%s", args, ours.status, ours.out, ours.errs, theirs.status, theirs.out, theirs.errs)
			}
		}
		a, err := os.ReadFile(path)
		b, err2 := os.ReadFile(before)
		if err != nil || err2 != nil || string(a) != string(b) {
			t.Errorf("hashkv has changed %s (%v, %v)", path, err, err2)
		}
	}
}

// What etcd has written is sound, dumped to its end, and served by etcd after a
// defragmentation, which gains what etcdutl's gains.
func TestFilesOfEtcdAreCheckedDumpedAndDefragmented(t *testing.T) {
	t.Parallel()
	ours, theirs := t.TempDir(), t.TempDir()
	for _, dir := range []string{ours, theirs} {
		unpack(t, filepath.Join(kubernetes, "data-dir.tar.xz"), dir)
	}
	var report struct {
		Revision, Keys, Applied, Last int64
		Findings                      []struct{ Weight, Problem string }
	}
	said := ask(t, oracle.Kvd(t), "check", "--data-dir", ours, "-w", "json")
	if err := json.Unmarshal([]byte(said.out), &report); err != nil {
		t.Fatalf("%v\n%+v", err, said)
	}
	if said.status != 0 || len(report.Findings) > 0 || report.Revision != 2252 || report.Keys != 1289 || report.Applied != 2309 || report.Last != 2309 {
		t.Errorf("%+v", said)
	}
	dump := strings.Split(strings.TrimSpace(ask(t, oracle.Kvd(t), "wal", "dump", "--data-dir", ours, "-w=json").out), "\n")
	if len(dump) != 2309 {
		t.Errorf("%d entries", len(dump))
	}
	for i, line := range dump {
		var l struct {
			Index       int
			Fault, Text string
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Index != i+1 || l.Fault != "" {
			t.Fatalf("line %d: %s: %v", i, line, err)
		}
	}
	part := ask(t, oracle.Kvd(t), "wal", "dump", "--wal-dir", filepath.Join(ours, "member/wal"), "--start-index=2306", "--end-index=2308", "--entry-type=put").out
	if !strings.Contains(part, `put:{key:"/app/feature" value:"on"}`) || !strings.HasSuffix(part, "\n2 records\n") {
		t.Errorf("a part of the dump:\n%s", part)
	}
	before := rowsOf(t, filepath.Join(ours, "member/snap/db"))
	oracle.Kvd(t).MustRun(t, "defrag", "--data-dir", ours)
	oracle.Etcdutl(t).MustRun(t, "defrag", "--data-dir", theirs)
	after, judge := rowsOf(t, filepath.Join(ours, "member/snap/db")), rowsOf(t, filepath.Join(theirs, "member/snap/db"))
	if len(after) != len(before) || len(after) != len(judge) {
		t.Errorf("%d rows, before %d, etcdutl %d", len(after), len(before), len(judge))
	}
	for name, row := range before {
		if after[name] != row {
			t.Errorf("row %s has changed", name)
		}
	}
	a, b := statusOf(t, filepath.Join(ours, "member/snap/db")), statusOf(t, filepath.Join(theirs, "member/snap/db"))
	if a.Hash != b.Hash || a.TotalSize > b.TotalSize {
		t.Errorf("%+v, etcdutl %+v", a, b)
	}
	if said := ask(t, oracle.Kvd(t), "check", "--data-dir", ours); said.status != 0 {
		t.Errorf("after the defragmentation: %+v", said)
	}
}

// The files of a member that runs, of either kind, are refused by every verb.
func TestFilesOfAMemberThatRunsAreRefused(t *testing.T) {
	t.Parallel()
	for _, bin := range []oracle.Binary{target(t), oracle.Etcd(t)} {
		m := oracle.Start(t, bin, oracle.Options{})
		write(t, m)
		db := filepath.Join(m.DataDir, "member/snap/db")
		for _, args := range [][]string{
			{"check", "--data-dir", m.DataDir, "--timeout=100ms"},
			{"check", db, "--timeout=100ms"},
			{"defrag", "--data-dir", m.DataDir, "--timeout=100ms"},
			{"hashkv", db, "--timeout=100ms"},
			{"snapshot", "status", db, "--timeout=100ms"},
			{"wal", "dump", "--data-dir", m.DataDir},
			{"snapshot", "restore", db, "--skip-hash-check", "--timeout=100ms", "--data-dir", filepath.Join(t.TempDir(), "x")},
			{"snapshot", "restore", kubernetesSnapshot(t), "--data-dir", m.DataDir},
		} {
			said := ask(t, oracle.Kvd(t), args...)
			names := strings.Contains(said.errs, "stop it first") && (args[0] == "wal" || strings.Contains(said.errs, strconv.Itoa(m.Pid())))
			if said.status == 0 || !names && !strings.Contains(said.errs, "not empty") {
				t.Errorf("%s: %q: status %d, %s", bin.Name, args, said.status, said.errs)
			}
		}
		write(t, m) // it has not been disturbed
		m.Stop()
		if said := ask(t, oracle.Kvd(t), "check", "--data-dir", m.DataDir); said.status != 0 {
			t.Errorf("%s, after it was stopped: %+v", bin.Name, said)
		}
	}
}

// etcd and kvd are started by one file of etcd's: the one reads it, the other
// what import-config makes of it.
func TestAMemberStartsByEtcdsFile(t *testing.T) {
	t.Parallel()
	for _, bin := range []oracle.Binary{oracle.Etcd(t), target(t)} {
		dir := t.TempDir()
		o := oracle.Options{ClientURL: "http://" + oracle.FreeAddress(t), PeerURL: "http://" + oracle.FreeAddress(t), DataDir: filepath.Join(dir, "data")}
		file := filepath.Join(dir, "etcd.yml")
		text := fmt.Sprintf("name: by-file\ndata-dir: %s\nlisten-client-urls: %[2]s\nadvertise-client-urls: %[2]s\nlisten-peer-urls: %[3]s\ninitial-advertise-peer-urls: %[3]s\n"+
			"initial-cluster: by-file=%[3]s\ninitial-cluster-token: tk\nmax-txn-ops: 3\ngrpc-keepalive-min-time: 5000000000\nlogger: zap\n", o.DataDir, o.ClientURL, o.PeerURL)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if bin.Name != oracle.Etcd(t).Name {
			made := filepath.Join(dir, "kvd.toml")
			oracle.Kvd(t).MustRun(t, "import-config", file, "-o", made)
			oracle.Kvd(t).MustRun(t, "config", "check", "--config-file", made)
			file = made
		}
		o.Name, o.Cluster, o.Token = "by-file", "by-file="+o.PeerURL, "tk"
		o.Args = []string{"--config-file", file}
		m := oracle.Start(t, bin, o)
		members := membersOf(t, m).Members
		if len(members) != 1 || members[0].Name != "by-file" || members[0].ClientURLs[0] != o.ClientURL {
			t.Errorf("%s: members %v", bin.Name, members)
		}
		put := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a")}}}
		_, err := pb.NewKVClient(m.Dial()).Txn(context.Background(), &pb.TxnRequest{Success: []*pb.RequestOp{put, put, put, put}})
		if err == nil || !strings.Contains(err.Error(), "too many operations") {
			t.Errorf("%s: max-txn-ops has no effect: %v", bin.Name, err)
		}
	}
}

// Every verb of etcdutl is kvd's, with each of its flags. Two have another
// default, and no flag has another kind of value.
func TestEveryVerbAndFlagOfEtcdutlIsHere(t *testing.T) {
	t.Parallel()
	flag := regexp.MustCompile(`(?m)^ +(?:-\w, )?(--[\w-]+(?: [a-z]\w*)?)  `)
	verb := regexp.MustCompile(`(?m)^  ([a-z]+)  `)
	flags := func(help string) (found []string) {
		for _, m := range flag.FindAllStringSubmatch(help, -1) {
			found = append(found, m[1])
		}
		return found
	}
	compared := 0
	var walk func(path ...string)
	walk = func(path ...string) {
		theirs := ask(t, oracle.Etcdutl(t), append(path, "--help")...).out
		_, list, hasVerbs := strings.Cut(theirs, "Available Commands:\n")
		if hasVerbs {
			list, _, _ = strings.Cut(list, "\n\n")
			for _, m := range verb.FindAllStringSubmatch(list, -1) {
				if m[1] != "help" {
					walk(append(slices.Clone(path), m[1])...)
				}
			}
			return
		}
		ours := ask(t, oracle.Kvd(t), append(path, "--help")...)
		has := flags(ours.out)
		for _, f := range flags(theirs) {
			everywhere := f == "--help" || strings.HasPrefix(f, "--timeout") || strings.HasPrefix(f, "--write-out") // also where they mean nothing
			if !slices.Contains(has, f) && !(everywhere && (path[0] == "completion" || path[0] == "version")) {
				t.Errorf("%q lacks %s:\n%s", path, f, ours.out+ours.errs)
			}
		}
		compared++
	}
	walk()
	if compared != 7 {
		t.Errorf("%d verbs of etcdutl were found", compared)
	}
}

// A directory of etcd's is taken to other versions and back by either tool, and
// refused alike; then it is served.
func TestMigrateIsEtcdutls(t *testing.T) {
	t.Parallel()
	ours, theirs := t.TempDir(), t.TempDir()
	for _, dir := range []string{ours, theirs} {
		unpack(t, filepath.Join(kubernetes, "data-dir.tar.xz"), dir)
	}
	mistake := func(s spoken) string {
		for line := range strings.Lines(s.errs) {
			if strings.HasPrefix(line, "Error: ") {
				return line
			}
		}
		return ""
	}
	for _, args := range []string{
		"", "--target-version=3.6", "--target-version=3", "--target-version=3.6.1", "--target-version=3.4", "--target-version=2.9",
		"--target-version=3.7", "--target-version=3.8", "--target-version=3.9 -w=json", "--target-version=4.0", "--target-version=3.6",
		"--target-version=3.6", "--target-version=3.5", "--target-version=3.8", "--target-version=3.7 --timeout=1s", "--target-version=3.5",
		"--target-version=3.8 --force", "--target-version=3.7", "--target-version=3.7 --force",
	} {
		var said [2]spoken
		for i, dir := range []string{ours, theirs} {
			words := append([]string{"migrate"}, strings.Fields(args)...)
			if args != "" {
				words = append(words, "--data-dir="+dir)
			}
			said[i] = ask(t, []oracle.Binary{oracle.Kvd(t), oracle.Etcdutl(t)}[i], words...)
		}
		if said[0].status != said[1].status || mistake(said[0]) != mistake(said[1]) || said[0].out != said[1].out {
			t.Errorf("migrate %s: status %d, %s; etcdutl: status %d, %s", args, said[0].status, said[0].errs, said[1].status, mistake(said[1]))
		}
		a, b := rowsOf(t, filepath.Join(ours, "member/snap/db")), rowsOf(t, filepath.Join(theirs, "member/snap/db"))
		if !reflect.DeepEqual(a, b) {
			t.Errorf("migrate %s: version %q in the database, etcdutl %q", args, a[`meta "storageVersion"`], b[`meta "storageVersion"`])
		}
	}
	if said := ask(t, oracle.Kvd(t), "check", "--data-dir", ours); said.status != 0 {
		t.Errorf("after it all: %+v", said)
	}
}
