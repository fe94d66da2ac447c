package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/grpclog"
)

func TestNothingOfTheHouseIsImported(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			if strings.HasPrefix(spec.Path.Value, `"kvd/`) {
				t.Errorf("%s imports %s; kvctl speaks the API only", file, spec.Path.Value)
			}
		}
	}
}

// TestFlagsAndDefaultsAreEtcdctls compares what the two programs' help lists.
func TestFlagsAndDefaultsAreEtcdctls(t *testing.T) {
	etcdctl := os.Getenv("KVD_TEST_ETCDCTL")
	if etcdctl == "" {
		t.Skip("KVD_TEST_ETCDCTL does not name an etcdctl 3.7.3 to compare with")
	}
	flag := regexp.MustCompile(`(?m)^ +(-\w, )?--[\w-]+( [a-z]\w+)?|\(default .*\)`)
	for _, line := range []string{
		"options", "get -h", "put -h", "del -h", "txn -h", "watch -h", "compaction -h",
		"lease -h", "lease grant -h", "lease revoke -h", "lease timetolive -h", "lease list -h", "lease keep-alive -h",
		"endpoint -h", "endpoint health -h", "endpoint status -h", "endpoint hashkv -h",
		"member -h", "member list -h", "member add -h", "member update -h", "member remove -h", "member promote -h",
		"downgrade -h", "downgrade validate -h", "downgrade enable -h", "downgrade cancel -h",
		"alarm list -h", "alarm disarm -h", "defrag -h", "move-leader -h", "snapshot save -h", "version -h", "completion -h",
	} {
		args := strings.Fields(line)
		theirs, err := exec.CommandContext(t.Context(), etcdctl, args...).Output()
		if err != nil {
			t.Fatal(err)
		}
		ours := runHere(t, talk{}, args)
		want, got := flag.FindAllString(string(theirs), -1), flag.FindAllString(ours.out, -1)
		if !slices.Equal(want, got) {
			t.Errorf("%s: etcdctl has\n%q\nkvctl has\n%q", line, want, got)
		}
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestOutputThatCannotBeWrittenIsAFailure(t *testing.T) {
	a, _ := newFakes(t)
	for _, args := range [][]string{{"get", "a"}, {"version"}, {"endpoint", "status"}, {"watch", "a"}, {"completion", "bash"}} {
		var errs bytes.Buffer
		p := &program{in: strings.NewReader(""), out: fullDisk{}, errs: &errs, grpcLog: func(grpclog.LoggerV2) {}}
		if code := p.run(append(args, "--endpoints", a.addr)); code != exitIO {
			t.Errorf("%q: exit code %d (%s), not %d", args, code, &errs, exitIO)
		}
	}
}

func TestSnapshotIsWholePrivateAndAlone(t *testing.T) {
	a, b := newFakes(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "s.db")
	if err := os.WriteFile(path+".part", []byte("left by an earlier run"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := runHere(t, talk{}, []string{"snapshot", "save", path, "--endpoints", a.addr}); r.code != 0 {
		t.Fatal(r)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	body := len(good) - sha256.Size
	if sum := sha256.Sum256(good[:body]); !bytes.Equal(sum[:], good[body:]) {
		t.Error("what was saved does not end in the hash of what precedes it")
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v (%v), not 0600", info.Mode(), err)
	}

	// A bad download leaves the good file of before as it was.
	if r := runHere(t, talk{}, []string{"snapshot", "save", path, "--endpoints", b.addr}); r.code != exitInterrupted {
		t.Errorf("a damaged download ends with code %d: %s", r.code, r.errs)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, good) {
		t.Errorf("the file of the first download has changed (%v)", err)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*")); !slices.Equal(files, []string{path}) {
		t.Errorf("left behind: %q", files)
	}
}

func TestTrailingHashIsFoundHoweverThePiecesFall(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		body := make([]byte, 512*r.IntN(20))
		for i := range body {
			body[i] = byte(r.Uint32())
		}
		sum := sha256.Sum256(body)
		whole := append(slices.Clone(body), sum[:]...)
		damaged := slices.Clone(whole)
		damaged[r.IntN(len(damaged))]++

		check := func(b []byte) error {
			sum, size := newTrailing(), int64(len(b))
			for len(b) > 0 {
				n := 1 + r.IntN(min(len(b), 700))
				if _, err := sum.Write(b[:n]); err != nil {
					t.Fatal(err)
				}
				b = b[n:]
			}
			return sum.check(size)
		}
		if err := check(whole); err != nil {
			t.Errorf("%d good bytes: %v", len(whole), err)
		}
		if check(damaged) == nil {
			t.Errorf("%d bytes, one of them wrong, were taken", len(damaged))
		}
		if check(body) == nil {
			t.Errorf("%d bytes without a hash were taken", len(body))
		}
	}
}

func TestProgressIsShownAndTakenAway(t *testing.T) {
	var line bytes.Buffer
	p := &progress{to: &line, begun: time.Now()}
	p.clear()
	if line.Len() != 0 {
		t.Errorf("cleared before anything was shown: %q", &line)
	}
	if _, err := io.Copy(p, strings.NewReader(strings.Repeat("x", 3000))); err != nil {
		t.Fatal(err)
	}
	p.clear()
	if got := line.String(); !strings.Contains(got, "3.0 kB received, ") || !strings.HasSuffix(got, "\r\x1b[K") {
		t.Errorf("shown: %q", got)
	}
}
