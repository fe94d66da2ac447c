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

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/grpclog"

	"kvd/cmd/internal/manual"
)

//go:generate go test -run ^TestTheReferenceIsCurrent$ -update .

func TestTheReferenceIsCurrent(t *testing.T) {
	const file = "../../docs/commands.md"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var chapter strings.Builder
	manual.Markdown(&chapter, (&program{}).root(), 2)
	want, err := manual.Fill(string(page), "kvctl", chapter.String())
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(page) {
		t.Errorf("%s is not current; run go generate ./cmd/kvctl", file)
	}
}

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
			ports := strings.HasSuffix(file, "_test.go") && spec.Path.Value == `"kvd/internal/freeport"`
			if strings.HasPrefix(spec.Path.Value, `"kvd/internal`) && !ports {
				t.Errorf("%s imports %s; kvctl speaks the API only", file, spec.Path.Value)
			}
		}
	}
}

// TestEveryCommandAndFlagOfEtcdctlIsHere walks etcdctl's help from command to
// command, and compares flags, their types and defaults with those of ours.
func TestEveryCommandAndFlagOfEtcdctlIsHere(t *testing.T) {
	etcdctl := os.Getenv("KVD_TEST_ETCDCTL")
	if etcdctl == "" {
		t.Skip("KVD_TEST_ETCDCTL does not name an etcdctl 3.7.3 to compare with")
	}
	flag := regexp.MustCompile(`(?m)^ +(-\w, )?--[\w-]+( [a-z]\w+)?|\(default .*\)`)
	commands := regexp.MustCompile(`(?i)\bcommands:?\n$`) // the heading of a list of them
	below := regexp.MustCompile(`^  ([a-z][\w-]*) +\S`)
	help := func(path []string) (theirs, ours string) {
		args := append(slices.Clone(path), "--help")
		if len(path) == 1 && path[0] == "options" {
			args = path // which show the flags of all commands
		}
		text, err := exec.CommandContext(t.Context(), etcdctl, args...).Output()
		if err != nil {
			t.Fatalf("%q: %v", args, err)
		}
		return string(text), runHere(t, talk{}, args).out
	}
	subcommands := func(text string) (names []string) {
		listed := false
		for line := range strings.Lines(text) {
			switch m := below.FindStringSubmatch(line); {
			case !strings.HasPrefix(line, " ") && line != "\n":
				listed = commands.MatchString(line)
			case listed && m != nil:
				names = append(names, m[1])
			}
		}
		return names
	}
	compared := 0
	var walk func(path []string)
	walk = func(path []string) {
		theirs, ours := help(path)
		want, got := flag.FindAllString(theirs, -1), flag.FindAllString(ours, -1)
		if !slices.Equal(want, got) {
			t.Errorf("%q: etcdctl has\n%q\nkvctl has\n%q", path, want, got)
		}
		compared++
		if len(path) > 0 && (path[0] == "completion" || path[0] == "help") {
			return
		}
		for _, name := range subcommands(theirs) {
			walk(append(slices.Clone(path), name))
		}
	}
	walk(nil)
	if compared < 55 {
		t.Errorf("only %d commands were found in etcdctl's help", compared)
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

func TestBarsSayHowFarTheWorkIs(t *testing.T) {
	for _, c := range []struct {
		bar  *bar
		done int64
		took time.Duration
		want string
	}{
		{
			&bar{label: "saving", total: 4_000_000, unit: inBytes()}, 1_000_000, 2 * time.Second,
			"saving  [======                  ]   25%   1.0 MB of 4.0 MB   500 kB/s   6s left",
		},
		{
			&bar{label: "saving", total: 4_000_000, unit: inBytes()}, 5_000_000, 5 * time.Second,
			"saving  [========================]  100%   5.0 MB of 4.0 MB   1.0 MB/s",
		},
		{&bar{label: "saving", unit: inBytes()}, 3_000, time.Second, "saving   3.0 kB   3.0 kB/s"},
		{
			&bar{label: "copying", total: 12_000, unit: counting("keys")}, 3_000, time.Second / 2,
			"copying  [======                  ]   25%   3,000 keys of 12,000 keys   6,000 keys/s",
		},
		{
			&bar{label: "measuring", total: int64(time.Minute), unit: inTime()}, int64(30 * time.Second), 30 * time.Second,
			"measuring  [============            ]   50%   30s of 1m0s",
		},
		{&bar{label: "defragmenting x"}, 0, 3500 * time.Millisecond, "defragmenting x  3s"},
	} {
		c.bar.add(c.done)
		squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
		if got := c.bar.text(c.took); squeeze(got) != squeeze(c.want) {
			t.Errorf("after %v: %q, not %q", c.took, got, c.want)
		}
	}
}

func TestBarIsShownAndTakenAway(t *testing.T) {
	var line bytes.Buffer
	b := (&program{errs: &line}).bar("saving", 0, inBytes())
	b.add(5)
	b.clear()
	if line.Len() != 0 {
		t.Errorf("shown where nobody looks: %q", &line)
	}
	b = (&program{errs: &line, terminal: true}).bar("saving", 0, inBytes())
	if _, err := io.Copy(b, strings.NewReader("xyz")); err != nil {
		t.Fatal(err)
	}
	b.clear()
	b.clear() // once more does no harm
	if got := line.String(); !strings.Contains(got, "saving  0 B") || !strings.HasSuffix(got, eraseLine) || b.done.Load() != 3 {
		t.Errorf("shown: %q, counted %d", got, b.done.Load())
	}
}

// A command may be shortened as far as etcdctl lets it be: what only kvctl has
// does not stand in the way.
func TestWhatIsShortForEtcdctlIsShortHere(t *testing.T) {
	for short, command := range map[string]string{
		"g": "get", "p": "put", "s": "snapshot", "t": "txn", "do": "downgrade", "a": "", "w": "watch", "st": "status", "mo": "move-leader",
		"le": "lease", "lo": "lock", "o": "options", "v": "version", "r": "role", "u": "user", "el": "elect", "en": "endpoint",
	} {
		r := runHere(t, talk{}, []string{short, "--help"})
		if found := strings.Contains(r.out, "\n  kvctl "+command); command != "" && !found || command == "" && r.code == 0 {
			t.Errorf("%q is not short for %q: %s%s", short, command, r.out, r.errs)
		}
	}
}

// Every error that a cluster names and a person can do something about comes
// with what that is.
func TestErrorsOfUsersAndRolesHaveHints(t *testing.T) {
	s := &session{program: &program{}, last: &lastLogged{}, spec: &clientv3.ConfigSpec{}}
	for err, word := range map[error]string{
		rpctypes.ErrRootUserNotExist: "user add root", rpctypes.ErrUserNotFound: "user list", rpctypes.ErrRoleNotFound: "role list",
		rpctypes.ErrInvalidAuthMgmt: "auth disable", rpctypes.ErrPermissionNotGranted: "role get", rpctypes.ErrInvalidAuthToken: "--user",
		rpctypes.ErrUserEmpty: "--user", rpctypes.ErrPermissionDenied: "root",
	} {
		if hint := s.hint(err); !strings.Contains(hint, word) {
			t.Errorf("%v: %q", err, hint)
		}
	}
}
