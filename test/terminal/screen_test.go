package terminal

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"kvd/test/oracle"
)

// within bounds the wait for one thing on a screen.
const within = 60 * time.Second

const (
	ctrlC     = "\x03"
	eraseLine = "\r\x1b[K"
)

// A screen is a terminal with a program in it. Its methods are for one
// goroutine.
type screen struct {
	t     *testing.T
	cmd   *exec.Cmd
	side  *os.File // ours of the two sides
	other *os.File // the program's, kept so that the terminal outlives it
	ended chan struct{}

	mu      sync.Mutex
	text    string
	seen    int // of text, by expect
	changed chan struct{}
}

// open runs a command on a new terminal of 24 lines.
func open(t *testing.T, bin oracle.Binary, columns uint16, args ...string) *screen {
	t.Helper()
	side, other, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(side, &pty.Winsize{Rows: 24, Cols: columns}); err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, side: side, other: other, ended: make(chan struct{}), changed: make(chan struct{})}
	s.cmd = exec.Command(bin.Path, args...)
	s.cmd.Dir = t.TempDir()
	s.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.cmd.Dir, "TERM=xterm", "KVCTL_DIAL_TIMEOUT=20s"}
	if !slices.Contains(args, "--command-timeout") {
		s.cmd.Env = append(s.cmd.Env, "KVCTL_COMMAND_TIMEOUT=20s") // the machine may be busy
	}
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = other, other, other
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() { defer close(read); s.read() }()
	go func() {
		_ = s.cmd.Wait() // ProcessState tells
		close(s.ended)
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // it may have ended
		<-s.ended
		other.Close()
		side.Close()
		<-read
		if t.Failed() {
			t.Logf("on the screen of %q:\n%q", args, s.all())
		}
	})
	return s
}

func (s *screen) read() {
	b := make([]byte, 4096)
	for {
		n, err := s.side.Read(b)
		s.mu.Lock()
		s.text += string(b[:n])
		close(s.changed)
		s.changed = make(chan struct{})
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *screen) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text
}

// expect waits for a text on the screen, behind what was expected before.
func (s *screen) expect(want string) {
	s.t.Helper()
	for over := time.After(within); ; {
		s.mu.Lock()
		at := strings.Index(s.text[s.seen:], want)
		if at >= 0 {
			s.seen += at + len(want)
			s.mu.Unlock()
			return
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-over:
			s.t.Fatalf("no %q came on the screen:\n%q", want, s.all())
		}
	}
}

// typed is as if somebody typed it.
func (s *screen) typed(text string) {
	s.t.Helper()
	if _, err := s.side.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

// end waits for the program's end and returns its exit code, and all that was
// written until then.
func (s *screen) end() (code int, text string) {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(within):
		s.t.Fatalf("it goes on and on:\n%q", s.all())
	}
	s.drained()
	return s.cmd.ProcessState.ExitCode(), s.all()
}

// drained writes a mark to the screen, behind whatever the program wrote, and
// waits until it is read.
func (s *screen) drained() {
	s.t.Helper()
	const mark = "\x1b[0m<end>"
	if _, err := s.other.WriteString(mark); err != nil {
		s.t.Fatal(err)
	}
	s.expect(mark)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = strings.TrimSuffix(s.text, mark)
	s.seen = min(s.seen, len(s.text))
}

// echoes says whether the terminal shows what is typed.
func (s *screen) echoes() bool {
	s.t.Helper()
	state, err := unix.IoctlGetTermios(int(s.other.Fd()), unix.TCGETS)
	if err != nil {
		s.t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// hidden waits until the terminal shows nothing that is typed.
func (s *screen) hidden() {
	s.t.Helper()
	for over := time.Now().Add(within); s.echoes(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(over) {
			s.t.Fatal("the terminal shows what is typed where a password is asked for")
		}
	}
}

// mustEnd is end for a program that must do well.
func (s *screen) mustEnd() string {
	s.t.Helper()
	code, text := s.end()
	if code != 0 {
		s.t.Fatalf("exit code %d:\n%q", code, text)
	}
	return text
}

// left is what one still sees of text, where lines were erased and written anew.
func left(text string) string {
	var lines []string
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\r\n", "\n"), "\n") {
		if at := strings.LastIndex(line, eraseLine); at >= 0 {
			line = line[at+len(eraseLine):]
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}
