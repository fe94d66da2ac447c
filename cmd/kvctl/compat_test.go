package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// TestEqualsEtcdctlAgainstEtcd gives the same command lines to etcdctl and to
// kvctl, each with a real etcd of its own, and compares what they print and
// how they exit. The two etcds are twins: alone in their clusters, and with
// the same identities, as they claim the same peer address.
func TestEqualsEtcdctlAgainstEtcd(t *testing.T) {
	etcd, etcdctl := os.Getenv("KVD_TEST_ETCD"), os.Getenv("KVD_TEST_ETCDCTL")
	if etcd == "" || etcdctl == "" {
		t.Skip("KVD_TEST_ETCD and KVD_TEST_ETCDCTL do not name an etcd and an etcdctl 3.7.3 to compare with")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, script := range compatScripts() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			theirs := &twin{binary: etcdctl, prefix: "ETCDCTL_", member: startEtcd(t, etcd)}
			ours := &twin{binary: self, prefix: "KVCTL_", env: []string{asKvctl + "=1"}, member: startEtcd(t, etcd)}
			compareTwins(t, theirs, ours, script)
		})
	}
}

func compareTwins(t *testing.T, theirs, ours *twin, script []step) {
	t.Helper()
	compared := 0
	for _, s := range script {
		for _, line := range s.lines() {
			if s.prepare != nil {
				for _, m := range []*member{theirs.member, ours.member} {
					s.prepare(t, m.client)
				}
				continue
			}
			member := ours.member
			if s.shared { // one member for both, for what differs between twins
				member = theirs.member
			}
			want, wantFiles := theirs.run(t, theirs.member, line, s)
			got, gotFiles := ours.run(t, member, line, s)
			compared++
			if want != got {
				t.Errorf("%s (environment %q, input %q)\n--- etcdctl: exit %d\n%s%s--- kvctl: exit %d\n%s%s",
					line, s.env, s.input, want.code, want.out, want.errs, got.code, got.out, got.errs)
			}
			if !slices.Equal(wantFiles, gotFiles) {
				t.Errorf("%s: etcdctl leaves %q, kvctl leaves %q", line, wantFiles, gotFiles)
			}
		}
	}
	t.Logf("%d command lines compared", compared)
}

// twin is one of the two programs, with the member it talks to.
type twin struct {
	binary string
	prefix string // of the environment it reads
	env    []string
	member *member
}

// member is one etcd.
type member struct {
	addr   string
	client *clientv3.Client
}

// run gives line to the program and returns what it said, without what no two
// runs share, and the files it left.
func (w *twin) run(t *testing.T, m *member, line string, s step) (told, []string) {
	t.Helper()
	words, err := splitWords(line)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.binary, words...)
	cmd.Dir = t.TempDir()
	// A password takes long to check when the machine is busy.
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), w.prefix + "DIAL_TIMEOUT=20s"}, w.env...)
	given := strings.Contains(line, "--endpoints")
	for _, e := range s.env {
		cmd.Env = append(cmd.Env, strings.ReplaceAll(e, "KVCTL_", w.prefix))
		given = given || strings.Contains(e, "_ENDPOINTS=")
	}
	if !given {
		cmd.Env = append(cmd.Env, w.prefix+"ENDPOINTS="+m.addr)
	}
	var out, errs watched
	cmd.Stdout, cmd.Stderr = &out, &errs
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if s.until == "" {
		_, _ = io.WriteString(stdin, s.input) // it may have exited without reading
		stdin.Close()
	} else { // it would not end by itself
		for l := range strings.Lines(s.input) {
			word, isWait := strings.CutPrefix(l, "wait ")
			if isWait {
				out.wait(t, strings.TrimSuffix(word, "\n"))
			} else if _, err := io.WriteString(stdin, l); err != nil {
				t.Errorf("%s: %v", line, err)
			}
		}
		out.wait(t, s.until)
		if err := cmd.Process.Kill(); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", line, err)
	}
	hide := func(text string) string {
		text = strings.ReplaceAll(text, m.addr, "MEMBER")
		for _, r := range s.hide {
			mark := "…"
			if strings.HasSuffix(r, `\n`) { // whole lines, of which there may be none
				mark = ""
			}
			text = regexp.MustCompile(r).ReplaceAllString(text, mark)
		}
		return steady(text)
	}
	files, err := filepath.Glob(filepath.Join(cmd.Dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		files[i] = fmt.Sprintf("%s %v", filepath.Base(f), info.Mode())
	}
	return told{hide(out.String()), hide(ourNames.Replace(plainErrors(errs.String()))), cmd.ProcessState.ExitCode()}, files
}

// watched is output that can be waited for.
type watched struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
	return w.text.Write(b)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func (w *watched) wait(t *testing.T, word string) {
	t.Helper()
	for deadline := time.After(20 * time.Second); ; {
		w.mu.Lock()
		if strings.Contains(w.text.String(), word) {
			w.mu.Unlock()
			return
		}
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("no %q in the output:\n%s", word, w)
		}
	}
}

// startEtcd runs an etcd on free ports until the test ends.
func startEtcd(t *testing.T, binary string) *member {
	t.Helper()
	dir := t.TempDir()
	m := &member{addr: freeAddr(t)}
	logs, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	const claimed = "http://127.0.0.1:1" // the identities are made of it; nobody dials it
	cmd := exec.Command(binary,
		"--name=default", "--data-dir="+filepath.Join(dir, "data"),
		"--listen-client-urls=http://"+m.addr, "--advertise-client-urls=http://"+m.addr,
		"--listen-peer-urls=http://"+freeAddr(t), "--initial-advertise-peer-urls="+claimed,
		"--initial-cluster=default="+claimed, "--logger=zap", "--log-outputs=stderr",
	)
	cmd.Stderr = logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		logs.Close()
		if text, err := os.ReadFile(logs.Name()); err == nil && t.Failed() {
			t.Logf("the last of %s's log:\n%s", m.addr, text[max(0, len(text)-2000):])
		}
	})
	m.client, err = clientv3.New(clientv3.Config{Endpoints: []string{m.addr}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.client.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for { // until its first own entries are in the log
		status, err := m.client.Status(ctx, m.addr)
		if err == nil && status.StorageVersion != "" && strings.HasPrefix(status.Version, status.StorageVersion[:3]) {
			return m
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("etcd at %s does not serve: %v", m.addr, err)
		}
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
