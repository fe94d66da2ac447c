package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"kvd/internal/freeport"
)

// TestEqualsEtcdctl gives the same command lines to etcdctl with etcd, to kvctl
// with etcd, to etcdctl with kvd and to kvctl with kvd, each with a server of
// its own, and compares what they print and how they exit. The servers are
// alike: alone in their clusters, and with the same identities, as they claim
// the same peer address.
func TestEqualsEtcdctl(t *testing.T) {
	etcd, etcdctl := os.Getenv("KVD_TEST_ETCD"), os.Getenv("KVD_TEST_ETCDCTL")
	if etcd == "" || etcdctl == "" {
		t.Skip("KVD_TEST_ETCD and KVD_TEST_ETCDCTL do not name an etcd and an etcdctl 3.7.3 to compare with")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	kvd := filepath.Join(t.TempDir(), "kvd")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", kvd, "../kvd").CombinedOutput(); err != nil {
		t.Fatalf("build kvd: %v\n%s", err, out)
	}
	for name, script := range compatScripts() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			theirs := twin{name: "etcdctl with etcd", binary: etcdctl, prefix: "ETCDCTL_"}
			ours := twin{binary: self, prefix: "KVCTL_", env: []string{asKvctl + "=1"}}
			all := []*twin{new(theirs), new(ours), new(theirs), new(ours)}
			for i, w := range all {
				if w.kvd = i >= 2; w.kvd {
					w.member = startServer(t, kvd, "--config-file=")
				} else {
					w.member = startServer(t, etcd, "--logger=zap", "--log-outputs=stderr")
				}
			}
			all[1].name, all[2].name, all[3].name = "kvctl with etcd", "etcdctl with kvd", "kvctl with kvd"
			for _, s := range script {
				for _, line := range s.lines() {
					if s.prepare != nil {
						for _, w := range all {
							if !w.kvd || !s.etcdOnly {
								s.prepare(t, w.member.client)
							}
						}
						continue
					}
					differ := compareTwins(t, all, line, s)
					for _, longer := range patience {
						if len(differ) > 0 && hurry.MatchString(line) {
							differ = compareTwins(t, all, hurry.ReplaceAllString(line, longer), s)
						}
					}
					for _, d := range differ {
						t.Error(d)
					}
				}
			}
		})
	}
}

// compareTwins has all of them run a line at once, and compares what they say
// with what the first one says. It returns where they differ.
func compareTwins(t *testing.T, all []*twin, line string, s step) (differ []string) {
	t.Helper()
	type end struct {
		told
		files []string
		err   error
	}
	ends := make([]end, len(all))
	var running sync.WaitGroup
	for i, w := range all {
		if w.kvd && s.etcdOnly {
			continue
		}
		m := w.member
		if s.shared && !w.kvd { // one member for both, for what differs between twins
			m = all[0].member
		}
		running.Go(func() { ends[i].told, ends[i].files, ends[i].err = w.run(t, m, line, s) })
	}
	running.Wait()
	for i, w := range all {
		want, got := ends[0], ends[i]
		if got.err != nil {
			t.Fatalf("%s: %s: %v", line, w.name, got.err)
		}
		if w.kvd && s.etcdOnly {
			continue
		}
		if w.kvd && s.shared { // numbers in which two servers cannot agree
			for _, text := range []*string{&want.out, &got.out, &want.errs, &got.errs} {
				*text = anyNumber.ReplaceAllString(*text, "N")
			}
		}
		if want.told != got.told {
			differ = append(differ, fmt.Sprintf("%s (environment %q, input %q)\n--- %s: exit %d\n%s%s--- %s: exit %d\n%s%s",
				line, s.env, s.input, all[0].name, want.code, want.out, want.errs, w.name, got.code, got.out, got.errs))
		}
		if !slices.Equal(want.files, got.files) {
			differ = append(differ, fmt.Sprintf("%s: %s leaves %q, %s leaves %q", line, all[0].name, want.files, w.name, got.files))
		}
	}
	return differ
}

// anyNumber is a number with its unit, or an identity, and the padding of its cell in a table.
var anyNumber = regexp.MustCompile(`[─ ]*\b([0-9a-f]{13,16}\b|\d+(\.\d+)?( [kMG]?B|%)?)[─ ]*`)

// twin is one of the two programs, with the member it talks to.
type twin struct {
	name   string
	kvd    bool // it talks to kvd, not to etcd
	binary string
	prefix string // of the environment it reads
	env    []string
	member *member
}

// member is one server.
type member struct {
	addr   string
	client *clientv3.Client
}

// other is the ID of a member that was added and not started.
func (m *member) other(ctx context.Context) (string, error) {
	list, err := m.client.MemberList(ctx)
	if err != nil {
		return "", err
	}
	for _, one := range list.Members {
		if one.GetName() == "" {
			return strconv.FormatUint(one.GetID(), 16), nil
		}
	}
	return "", nil
}

// run gives line to the program and returns what it said, without what no two
// runs share, and the files it left.
func (w *twin) run(t *testing.T, m *member, line string, s step) (told, []string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var other string
	if strings.Contains(line, "{other}") {
		var err error
		if other, err = m.other(ctx); err != nil {
			return told{}, nil, err
		}
	}
	words, err := splitWords(strings.ReplaceAll(line, "{other}", other))
	if err != nil {
		return told{}, nil, err
	}
	cmd := exec.CommandContext(ctx, w.binary, words...)
	cmd.Dir = t.TempDir()
	// A password takes long to check when the machine is busy.
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), w.prefix + "DIAL_TIMEOUT=20s"}, w.env...)
	if !strings.Contains(line, "--command-timeout") {
		cmd.Env = append(cmd.Env, w.prefix+"COMMAND_TIMEOUT=30s")
	}
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
		return told{}, nil, err
	}
	if err := cmd.Start(); err != nil {
		return told{}, nil, err
	}
	if s.until == "" {
		_, _ = io.WriteString(stdin, s.input) // it may have exited without reading
		stdin.Close()
	} else { // it would not end by itself
		for l := range strings.Lines(s.input) {
			word, isWait := strings.CutPrefix(l, "wait ")
			if isWait {
				err = out.wait(strings.TrimSuffix(word, "\n"))
			} else {
				_, err = io.WriteString(stdin, l)
			}
			if err != nil {
				break
			}
		}
		if err == nil {
			err = out.wait(s.until)
		}
		_ = cmd.Process.Kill() // it may have ended
		if err != nil {
			_ = cmd.Wait() // it was killed
			return told{}, nil, fmt.Errorf("%w\n%s", err, &errs)
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return told{}, nil, err
	}
	hide := func(text string) string {
		text = strings.ReplaceAll(text, m.addr, "MEMBER")
		if strings.Contains(line, "{other}") {
			text = strings.ReplaceAll(text, other, "OTHER")
		}
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
		return told{}, nil, err
	}
	for i, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			return told{}, nil, err
		}
		files[i] = fmt.Sprintf("%s %v", filepath.Base(f), info.Mode())
	}
	return told{hide(out.String()), hide(ourNames.Replace(plainErrors(errs.String()))), cmd.ProcessState.ExitCode()}, files, nil
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

func (w *watched) wait(word string) error {
	for deadline := time.After(time.Minute); ; {
		w.mu.Lock()
		if strings.Contains(w.text.String(), word) {
			w.mu.Unlock()
			return nil
		}
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-deadline:
			return fmt.Errorf("no %q in the output:\n%s", word, w)
		}
	}
}

// startServer runs an etcd, or a kvd, on free ports until the test ends.
func startServer(t *testing.T, binary string, flags ...string) *member {
	t.Helper()
	dir := t.TempDir()
	m := &member{addr: freeport.Address(t)}
	logs, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	const claimed = "http://127.0.0.1:1" // the identities are made of it; nobody dials it
	cmd := exec.Command(binary, append(flags,
		"--name=default", "--data-dir="+filepath.Join(dir, "data"),
		"--listen-client-urls=http://"+m.addr, "--advertise-client-urls=http://"+m.addr,
		"--listen-peer-urls=http://"+freeport.Address(t), "--initial-advertise-peer-urls="+claimed,
		"--initial-cluster=default="+claimed,
	)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir} // nothing that configures a server
	cmd.Stdout, cmd.Stderr = logs, logs
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
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for { // until its first own entries are in the log
		status, err := m.client.Status(ctx, m.addr)
		if err == nil && status.StorageVersion != "" && strings.HasPrefix(status.Version, status.StorageVersion[:3]) {
			return m
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("the server at %s does not serve: %v", m.addr, err)
		}
	}
}
