package compat

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kvd/test/oracle"
)

// harm is what happens to a file.
type harm struct {
	name string
	do   func(rng *rand.Rand, content []byte, used int) []byte // used: without the zeros at the end
}

var (
	emptied = harm{"emptied", func(*rand.Rand, []byte, int) []byte { return nil }}
	cut     = harm{"cut", func(rng *rand.Rand, b []byte, used int) []byte { return b[:rng.IntN(used)] }}
	flipped = harm{"flipped", func(rng *rand.Rand, b []byte, used int) []byte {
		b = slices.Clone(b)
		b[rng.IntN(used)] ^= 1 << rng.IntN(8)
		return b
	}}
)

// Whatever has happened to the files of an etcd 3.7.3, every verb that opens
// them ends with an answer, or with status 1 and what is wrong with which file.
func TestDamagedFilesOfEtcdAreDiagnosed(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	whole := t.TempDir()
	unpack(t, filepath.Join(kubernetes, "data-dir.tar.xz"), whole)
	snapshot := kubernetesSnapshot(t)
	others := oracle.Start(t, target(t), oracle.Options{})
	for _, one := range []struct {
		file string // of the data directory; empty: the snapshot
		harm harm
		// A database has no checksums: that of etcd cannot tell of every bit.
		certain bool
	}{
		{"", emptied, true},
		{"", cut, true},
		{"", flipped, true},
		{"member/snap/db", emptied, true},
		{"member/snap/db", cut, true},
		{"member/snap/db", flipped, false},
		{"member/snap/db", flipped, false},
		{"member/wal/*.wal", emptied, true},
		{"member/wal/*.wal", cut, true},
		{"member/wal/*.wal", flipped, true},
		{"member/snap/*.snap", emptied, true},
		{"member/snap/*.snap", cut, true},
		{"member/snap/*.snap", flipped, true},
	} {
		if one.file == "" {
			path := filepath.Join(t.TempDir(), "snapshot.db")
			damage(t, rng, snapshot, path, one.harm)
			examineSnapshot(t, path, one.harm.name)
			continue
		}
		dir := filepath.Join(t.TempDir(), "data")
		path := copyDamaged(t, rng, whole, dir, one.file, one.harm)
		examineMember(t, dir, path, one.harm.name, one.certain)
		examine(t, filepath.Base(path)+" "+one.harm.name, "kvd member rejoin: ", "member", "rejoin", "--dry-run", "--data-dir", dir,
			"--endpoints", others.ClientURL, "--name", "m", "--initial-advertise-peer-urls", "http://127.0.0.1:2")
	}
}

// damage writes a file's content to path, with harm done to it.
func damage(t *testing.T, rng *rand.Rand, file, path string, h harm) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	content = h.do(rng, content, len(bytes.TrimRight(content, "\x00")))
	used := bytes.TrimRight(content, "\x00")
	if err := os.WriteFile(path, used, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(len(content))); err != nil { // zeros take no space
		t.Fatal(err)
	}
}

// copyDamaged makes a data directory of another one, in which one file is
// damaged, and returns the path of that.
func copyDamaged(t *testing.T, rng *rand.Rand, from, to, pattern string, h harm) (damaged string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		copied := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(copied), 0o700); err != nil {
			return err
		}
		if hit, _ := filepath.Match(pattern, name); hit {
			damaged = copied
			damage(t, rng, path, copied, h)
			return nil
		}
		return os.Link(path, copied) // nobody writes into what is there
	})
	if err != nil || damaged == "" {
		t.Fatalf("%s: nothing to damage (%v)", pattern, err)
	}
	return damaged
}

// examine runs a verb and judges how it speaks of damage in or below about.
func examine(t *testing.T, what, about string, args ...string) spoken {
	t.Helper()
	said := ask(t, oracle.Kvd(t), args...)
	all := said.out + said.errs
	switch {
	case said.status != 0 && said.status != 1, strings.Contains(said.errs, "panic"), strings.Contains(said.errs, "goroutine "):
		t.Errorf("%s: %q: status %d\n%s", what, args, said.status, all)
	case said.status == 1 && !strings.Contains(all, about):
		t.Errorf("%s: %q does not say what is wrong:\n%s", what, args, all)
	}
	return said
}

func examineSnapshot(t *testing.T, path, harm string) {
	t.Helper()
	restored := filepath.Join(t.TempDir(), "restored")
	for _, args := range [][]string{{"check", path}, {"snapshot", "status", path}, {"snapshot", "restore", path, "--data-dir", restored}} {
		if said := examine(t, "snapshot "+harm, path, args...); said.status != 1 {
			t.Errorf("snapshot %s: %q is content:\n%s", harm, args, said.out+said.errs)
		}
	}
	examine(t, "snapshot "+harm, path, "hashkv", path)
	if _, err := os.Stat(restored); err == nil {
		t.Errorf("snapshot %s: something was restored", harm)
	}
}

func examineMember(t *testing.T, dir, path, harm string, certain bool) {
	t.Helper()
	what := fmt.Sprintf("%s %s", filepath.Base(path), harm)
	where, inLog := path, strings.HasSuffix(path, ".wal")
	if inLog { // where entries are missing, the log is named
		where = filepath.Dir(path)
	}
	report := examine(t, what, where, "check", "--data-dir", dir)
	if certain && !finding(report.out, where) || report.status == 1 && !strings.Contains(report.out, "\n  to do: ") {
		t.Errorf("%s: the check says\n%s%s", what, report.out, report.errs)
	}
	db := filepath.Join(dir, "member/snap/db")
	if path == db {
		restored := filepath.Join(t.TempDir(), "restored")
		for _, args := range [][]string{
			{"check", db},
			{"snapshot", "status", db},
			{"hashkv", db},
			{"snapshot", "restore", db, "--skip-hash-check", "--data-dir", restored},
		} {
			said := examine(t, what, db, args...)
			if certain && said.status != 1 || report.status == 0 && said.status != 0 {
				t.Errorf("%s: %q: status %d\n%s%s", what, args, said.status, said.out, said.errs)
			}
		}
	}
	dump := examine(t, what, filepath.Base(path), "wal", "dump", "--data-dir", dir, "--all")
	if !inLog && dump.status != 0 || inLog && harm == emptied.name && dump.status != 1 {
		t.Errorf("%s: wal dump: status %d\n%s", what, dump.status, dump.errs)
	}
	before, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	if said := examine(t, what, dir, "defrag", "--data-dir", dir); said.status != 0 {
		if after, err := os.ReadFile(db); err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s: a defragmentation that failed has changed the database (%v)", what, err)
		}
	}
}

// finding reports whether a check has found something there.
func finding(report, where string) bool {
	for line := range strings.Lines(report) {
		weight, rest, _ := strings.Cut(line, ": ")
		if slices.Contains([]string{"error", "warning", "note"}, weight) && strings.HasPrefix(rest, where) {
			return true
		}
	}
	return false
}
