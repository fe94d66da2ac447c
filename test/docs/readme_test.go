package docs

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kvd/test/oracle"
)

// tested is the line before a block whose commands are run.
const tested = "<!-- tested -->"

// untilInterrupt ends a command that goes on until it is interrupted: once it
// has written what the text shows.
const untilInterrupt = "# until Ctrl-C"

// address is where the README's member serves its clients.
const address = "127.0.0.1:2379"

// within bounds one command.
const within = time.Minute

// A session is one block: commands and what they write.
type session struct {
	line     int // in the file
	commands []command
}

type command struct {
	line int
	text string
	want []string // lines; "..." stands for anything within one
}

// sessions reads the blocks that are marked so.
func sessions(t *testing.T, path, mark string) (all []session) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	for i := 0; i < len(lines); i++ {
		if lines[i] != mark {
			continue
		}
		if i++; i == len(lines) || lines[i] != "```sh" {
			t.Fatalf("%s:%d: no shell block behind the mark", path, i)
		}
		s := session{line: i + 1}
		for i++; i < len(lines) && lines[i] != "```"; i++ {
			if text, ok := strings.CutPrefix(lines[i], "$ "); ok {
				s.commands = append(s.commands, command{line: i + 1, text: text})
				continue
			}
			if len(s.commands) == 0 {
				t.Fatalf("%s:%d: output before the first command", path, i+1)
			}
			last := &s.commands[len(s.commands)-1]
			last.want = append(last.want, lines[i])
		}
		all = append(all, s)
	}
	return all
}

// A place is an address as a document has it, and where that is here.
type place struct{ there, here string }

type places []place

// replacers turn a document's addresses into those here, and back.
func (p places) replacers() (theirs, ours *strings.Replacer) {
	var to, from []string
	for _, one := range p {
		to, from = append(to, one.there, one.here), append(from, one.here, one.there)
	}
	return strings.NewReplacer(to...), strings.NewReplacer(from...)
}

// matches reports whether a line is as the text shows it. Columns are as wide as
// their widest value, so spaces count as one.
func matches(want, got string) bool {
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	parts := strings.Split(squeeze(want), "...")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$").MatchString(squeeze(got))
}

// workshop is a directory like a clone in which make build has run.
func workshop(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, b := range []oracle.Binary{oracle.Kvd(t), oracle.Kvctl(t), oracle.Etcdctl(t), oracle.Etcdutl(t)} {
		path, err := filepath.Abs(b.Path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, "bin", b.Name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// environment is ours without what would configure the programs, with their
// directory in front of the path and the member as the one to talk to.
func environment(dir, member string) []string {
	env := []string{"PATH=" + filepath.Join(dir, "bin") + ":" + os.Getenv("PATH"), "ETCDCTL_ENDPOINTS=" + member}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "ETCD") && !strings.HasPrefix(v, "KVD_") && !strings.HasPrefix(v, "KVCTL_") && !strings.HasPrefix(v, "PATH=") {
			env = append(env, v)
		}
	}
	return env
}

// run runs a command and compares what it writes with what the text shows.
func (c command) run(t *testing.T, file, dir string, at places, more ...string) {
	t.Helper()
	member := at[0].here
	theirs, ours := at.replacers()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", "exec 2>&1; "+theirs.Replace(c.text))
	cmd.Dir, cmd.Env = dir, append(environment(dir, member), more...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	endless := strings.HasSuffix(c.text, untilInterrupt)
	var got []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		got = append(got, ours.Replace(lines.Text()))
		if endless && len(got) == len(c.want) {
			if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
	}
	cmd.Wait() // the text shows what is written, not how it ends
	if ctx.Err() != nil {
		t.Fatalf("%s:%d: %s: not ended after %s; it wrote %q", file, c.line, c.text, within, got)
	}
	for i := range max(len(got), len(c.want)) {
		if i >= len(got) || i >= len(c.want) || !matches(c.want[i], got[i]) {
			t.Fatalf("%s:%d: %s\n--- the text shows\n%s\n--- it writes\n%s", file, c.line, c.text,
				strings.Join(c.want, "\n"), strings.Join(got, "\n"))
		}
	}
}

// TestCommandsInTheDocumentsDoAsShown runs the marked blocks, in order, against
// one member for each document.
func TestCommandsInTheDocumentsDoAsShown(t *testing.T) {
	for _, name := range []string{"README.md", "docs/operations.md"} {
		t.Run(name, func(t *testing.T) {
			all := sessions(t, filepath.Join("../..", name), tested)
			if len(all) == 0 {
				t.Fatal("no block is marked as tested")
			}
			dir := workshop(t)
			m := oracle.Start(t, oracle.Kvd(t), oracle.Options{Name: "local"})
			for _, s := range all {
				for _, c := range s.commands {
					c.run(t, name, dir, places{{address, m.Address()}})
				}
			}
		})
	}
}

// TestCommandsWithTLSDoAsShown runs the blocks that begin with nothing, and start
// a member of their own.
func TestCommandsWithTLSDoAsShown(t *testing.T) {
	const name = "docs/operations.md"
	all := sessions(t, filepath.Join("../..", name), "<!-- tested with TLS -->")
	if len(all) == 0 {
		t.Fatal("no block is marked")
	}
	dir := workshop(t)
	t.Cleanup(func() {
		text, _ := os.ReadFile(filepath.Join(dir, "kvd.pid")) // it may not have come to that
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			syscall.Kill(pid, syscall.SIGKILL) // it has ended if all went well
		}
		if log, err := os.ReadFile(filepath.Join(dir, "kvd.log")); err == nil && t.Failed() {
			t.Logf("kvd wrote:\n%s", log)
		}
	})
	at := places{{address, oracle.FreeAddress(t)}, {"127.0.0.1:2380", oracle.FreeAddress(t)}}
	for _, s := range all {
		for _, c := range s.commands {
			c.run(t, name, dir, at)
		}
	}
}

// TestCommandsOfAProxyDoAsShown runs the README's blocks on a proxy and a gateway
// of one member.
func TestCommandsOfAProxyDoAsShown(t *testing.T) {
	m := oracle.Start(t, oracle.Kvd(t), oracle.Options{Name: "local"})
	dir := workshop(t)
	t.Cleanup(func() {
		for _, name := range []string{"front", "gateway"} {
			text, _ := os.ReadFile(filepath.Join(dir, name+".pid")) // it may not have come to that
			if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
				syscall.Kill(pid, syscall.SIGKILL) // it has ended if all went well
			}
			if log, err := os.ReadFile(filepath.Join(dir, name+".log")); err == nil && t.Failed() {
				t.Logf("%s wrote:\n%s", name, log)
			}
		}
	})
	all := sessions(t, "../../README.md", "<!-- tested with a proxy -->")
	if len(all) == 0 {
		t.Fatal("no block is marked")
	}
	at := places{
		{address, m.Address()},
		{"127.0.0.1:2380", strings.TrimPrefix(m.PeerURL, "http://")},
		{"127.0.0.1:12379", oracle.FreeAddress(t)},
		{"127.0.0.1:13790", oracle.FreeAddress(t)},
	}
	for _, s := range all {
		for _, c := range s.commands {
			c.run(t, "README.md", dir, at, "KVCTL_ENDPOINTS="+m.Address())
		}
	}
}

// TestCommandsOnAClusterDoAsShown runs the README's blocks on a cluster of three.
func TestCommandsOnAClusterDoAsShown(t *testing.T) {
	c := oracle.StartCluster(t, []oracle.Binary{oracle.Kvd(t)}, oracle.ClusterOptions{
		Member: func(i int, o *oracle.Options) { o.Name = string(rune('a' + i)) },
	})
	var at places
	var endpoints []string
	for i, m := range c.Members {
		at = append(at, place{fmt.Sprintf("127.0.0.1:%d", 2379+10*i), m.Address()},
			place{fmt.Sprintf("127.0.0.1:%d", 2380+10*i), strings.TrimPrefix(m.PeerURL, "http://")})
		endpoints = append(endpoints, m.Address())
	}
	all := sessions(t, "../../README.md", "<!-- tested on a cluster -->")
	if len(all) == 0 {
		t.Fatal("no block is marked")
	}
	dir := workshop(t)
	for _, s := range all {
		for _, one := range s.commands {
			one.run(t, "README.md", dir, at, "KVCTL_ENDPOINTS="+strings.Join(endpoints, ","))
		}
	}
}

// TestMakeClusterServes runs what make cluster runs, on other ports.
func TestMakeClusterServes(t *testing.T) {
	dir := workshop(t)
	_, port, err := net.SplitHostPort(oracle.FreeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	first, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "../../tools/cluster", "3")
	cmd.Env = append(environment(dir, ""), "BIN="+filepath.Join(dir, "bin"), "DIR="+dir, "FIRST="+port)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for i := range 3 {
		if err := healthy(t, fmt.Sprintf("127.0.0.1:%d", first+10*i), ended); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil { // as a terminal does
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("Ctrl-C: %v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "kvctl member list") {
		t.Errorf("it does not say how to talk to it:\n%s", out.String())
	}
}

// TestMakeRunServes runs the README's first command, on other ports and
// directories than a person who tries it would use.
func TestMakeRunServes(t *testing.T) {
	dir, client, peer := t.TempDir(), oracle.FreeAddress(t), oracle.FreeAddress(t)
	cmd := exec.CommandContext(t.Context(), "make", "-C", "../..", "run", "BIN="+filepath.Join(dir, "bin"),
		"RUN_DIR="+filepath.Join(dir, "run"), "CLIENT=http://"+client, "PEER=http://"+peer)
	cmd.Env = environment(dir, client)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := healthy(t, client, ended); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil { // as a terminal does
		t.Fatal(err)
	}
	if err := <-ended; err != nil && !strings.Contains(out.String(), "stopped") {
		t.Errorf("Ctrl-C: %v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "kvctl put greeting hello") {
		t.Errorf("it does not say how to talk to it:\n%s", out.String())
	}
	if _, err := os.Stat(filepath.Join(dir, "run/data/member/wal")); err != nil {
		t.Error(err)
	}
}

// healthy waits until the member answers.
func healthy(t *testing.T, client string, ended <-chan error) error {
	t.Helper()
	deadline := time.After(5 * time.Minute) // the first build
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := health(ctx, client)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case end := <-ended:
			return fmt.Errorf("make run ended: %w", end)
		case <-deadline:
			return fmt.Errorf("no answer: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func health(ctx context.Context, client string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+client+"/health", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", answer.StatusCode)
	}
	return nil
}
