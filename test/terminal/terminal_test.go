package terminal

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"kvd/test/oracle"
)

// member starts a kvd with nothing in it.
func member(t *testing.T) (*oracle.Member, oracle.Binary) {
	t.Helper()
	return oracle.Start(t, oracle.Kvd(t), oracle.Options{}), oracle.Kvctl(t)
}

func TestPasswordsAreNotShown(t *testing.T) {
	t.Parallel()
	m, kvctl := member(t)
	s := open(t, kvctl, 80, "user", "add", "alice", "--endpoints", m.ClientURL)
	s.expect("Password of alice: ")
	s.hidden()
	s.typed("geheim\n")
	s.expect("Type password of alice again for confirmation: ")
	s.hidden()
	s.typed("geheim\n")
	text := s.mustEnd()
	if !strings.Contains(text, "User alice created\r\n") || strings.Contains(text, "geheim") {
		t.Errorf("on the screen:\n%q", text)
	}
	if !s.echoes() {
		t.Error("the terminal does not show any more what is typed")
	}

	// Two different ones are not taken.
	s = open(t, kvctl, 80, "user", "passwd", "alice", "--endpoints", m.ClientURL)
	s.expect("Password of alice: ")
	s.hidden()
	s.typed("one\n")
	s.expect("again")
	s.hidden()
	s.typed("two\n")
	if code, text := s.end(); code != 128 || !strings.Contains(text, "given passwords are different") {
		t.Errorf("exit code %d:\n%q", code, text)
	}
}

func TestThePasswordOfAUserIsAskedFor(t *testing.T) {
	t.Parallel()
	m, kvctl := member(t)
	for _, line := range []string{"user add root:geheim", "auth enable"} {
		kvctl.MustRun(t, append(strings.Fields(line), "--dial-timeout=20s", "--command-timeout=20s", "--endpoints", m.ClientURL)...)
	}
	s := open(t, kvctl, 80, "--user", "root", "put", "a", "b", "--endpoints", m.ClientURL)
	s.expect("Password: ")
	s.hidden()
	s.typed("geheim\n")
	if text := s.mustEnd(); !strings.Contains(text, "OK\r\n") || strings.Contains(text, "geheim") {
		t.Errorf("on the screen:\n%q", text)
	}
	s = open(t, kvctl, 80, "--user", "root", "put", "a", "b", "--endpoints", m.ClientURL)
	s.expect("Password: ")
	s.hidden()
	s.typed("falsch\n")
	if code, text := s.end(); code == 0 || !strings.Contains(text, "Hint: check the name and the password") {
		t.Errorf("exit code %d:\n%q", code, text)
	}
	// Who does not say who asks is told how to.
	s = open(t, kvctl, 80, "get", "a", "--endpoints", m.ClientURL)
	if code, text := s.end(); code == 0 || !strings.Contains(text, "--user name") {
		t.Errorf("exit code %d:\n%q", code, text)
	}
}

func TestCtrlCAtAPasswordLeavesTheTerminalAsItWas(t *testing.T) {
	t.Parallel()
	s := open(t, oracle.Kvctl(t), 80, "--user", "root", "get", "a")
	s.expect("Password: ")
	s.hidden()
	s.typed(ctrlC)
	if code, text := s.end(); code != 130 {
		t.Errorf("exit code %d:\n%q", code, text)
	}
	if !s.echoes() {
		t.Error("the terminal does not show any more what is typed")
	}
}

func TestErrorsComeWithWhatToDo(t *testing.T) {
	t.Parallel()
	s := open(t, oracle.Kvctl(t), 80, "get", "a", "--endpoints", "127.0.0.1:1", "--command-timeout", "500ms")
	code, text := s.end()
	if code != 1 || !strings.Contains(text, "Error: context deadline exceeded\r\nHint: nothing listens at 127.0.0.1:1: is kvd running there") {
		t.Errorf("exit code %d:\n%q", code, text)
	}
	if strings.Contains(text, `{"level"`) {
		t.Errorf("a person is shown JSON:\n%q", text)
	}
}

func TestLongWorkShowsHowFarItIs(t *testing.T) {
	t.Parallel()
	m, kvctl := member(t)
	there, _ := member(t)
	for i := range 20 {
		kvctl.MustRun(t, "put", fmt.Sprintf("a/%d", i), strings.Repeat("x", 10_000), "--endpoints", m.ClientURL)
	}
	file := filepath.Join(t.TempDir(), "saved.db")
	s := open(t, kvctl, 80, "snapshot", "save", file, "--endpoints", m.ClientURL)
	s.expect(eraseLine + "saving  [")
	if text := left(s.mustEnd()); text != "Snapshot saved at "+file+"\nServer version 3.7.0\n" {
		t.Errorf("left on the screen:\n%q", text)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}

	s = open(t, kvctl, 40, "defrag", "--endpoints", m.ClientURL)
	s.expect(eraseLine + "defragmenting http")
	text := s.mustEnd()
	if !regexp.MustCompile(`^Finished defragmenting etcd member\[\S+\]. took \S+\n$`).MatchString(left(text)) {
		t.Errorf("left on the screen:\n%q", left(text))
	}

	s = open(t, kvctl, 80, "make-mirror", there.ClientURL, "--endpoints", m.ClientURL)
	s.expect(eraseLine + "copying  [")
	s.expect(eraseLine + "following  ")
	kvctl.MustRun(t, "put", "a/later", "y", "--endpoints", m.ClientURL)
	s.expect("1 changes")
	s.typed(ctrlC)
	if code, text := s.end(); code != 130 || strings.Trim(left(text), "^C\n") != "" {
		t.Errorf("exit code %d, left on the screen:\n%q", code, left(text))
	}
	if got := kvctl.MustRun(t, "get", "a/", "--prefix", "--count-only", "-w", "fields", "--endpoints", there.ClientURL); !strings.Contains(got, `"Count" : 21`) {
		t.Errorf("the mirror has\n%s", got)
	}

	s = open(t, kvctl, 80, "top", "--time", "300ms", "--endpoints", m.ClientURL)
	s.expect(eraseLine + "watching  [")
	if text := left(s.mustEnd()); !strings.HasPrefix(text, "Busiest prefixes") || !strings.Contains(text, "a/      21    200 kB") {
		t.Errorf("left on the screen:\n%s", text)
	}
}

func TestAnInterruptedCheckLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	m, kvctl := member(t)
	s := open(t, kvctl, 80, "check", "perf", "--endpoints", m.ClientURL)
	s.expect(eraseLine + "writing  [")
	s.expect("1s of 1m0s") // something is written by now
	s.typed(ctrlC)
	if code, text := s.end(); code != 1 || !strings.Contains(text, "interrupted; what was written is deleted again") {
		t.Errorf("exit code %d:\n%q", code, text)
	}
	if got := kvctl.MustRun(t, "get", "", "--prefix", "--endpoints", m.ClientURL); got != "" {
		t.Errorf("left in the cluster: %q", got)
	}
}

func TestStatusIsDrawnAnewUntilCtrlC(t *testing.T) {
	t.Parallel()
	m, kvctl := member(t)
	s := open(t, kvctl, 60, "status", "--watch", "--interval", "100ms", "--endpoints", m.ClientURL)
	const clear = "\x1b[H\x1b[2J"
	s.expect("\x1b[?25l")
	for range 3 {
		s.expect(clear + "cluster ")
		s.expect("leader m1")
	}
	s.typed(ctrlC)
	text := s.mustEnd()
	if !strings.HasSuffix(strings.TrimSuffix(text, "^C"), "\x1b[?25h") {
		t.Errorf("the cursor is not shown again:\n%q", text)
	}
	for _, one := range strings.Split(text, clear)[1:] {
		lines := strings.Split(strings.ReplaceAll(one, "\r\n", "\n"), "\n")
		for _, line := range lines {
			if line, _, _ = strings.Cut(line, "\x1b"); len([]rune(strings.TrimSuffix(line, "^C"))) > 60 {
				t.Errorf("wider than the terminal: %q", line)
			}
		}
	}
}

func TestStatusTellsThatNobodyAnswersAndGoesOn(t *testing.T) {
	t.Parallel()
	s := open(t, oracle.Kvctl(t), 100, "status", "--watch", "--interval", "50ms", "--command-timeout", "300ms", "--endpoints", "127.0.0.1:1")
	for range 2 {
		s.expect("no answer from 127.0.0.1:1")
		s.expect("Hint: nothing listens at 127.0.0.1:1")
	}
	s.typed(ctrlC)
	s.mustEnd()
}

func TestTransactionsAreAskedFor(t *testing.T) {
	t.Parallel()
	m, kvctl := member(t)
	s := open(t, kvctl, 80, "txn", "-i", "--endpoints", m.ClientURL)
	s.expect("compares:\r\n")
	s.typed("create(\"a\") = \"0\"\n\n")
	s.expect("success requests (get, put, del):\r\n")
	s.typed("put a b\nget a\n\n")
	s.expect("failure requests (get, put, del):\r\n")
	s.typed("\n")
	if text := s.mustEnd(); !strings.HasSuffix(text, "SUCCESS\r\n\r\nOK\r\n\r\na\r\nb\r\n") {
		t.Errorf("on the screen:\n%q", text)
	}
}

func TestWatchesAreTypedAndEndedByCtrlC(t *testing.T) {
	t.Parallel()
	m, kvctl := member(t)
	s := open(t, kvctl, 80, "watch", "-i", "--endpoints", m.ClientURL)
	s.typed("watch a --rev 1 -- echo seen\n")
	kvctl.MustRun(t, "put", "a", "b", "--endpoints", m.ClientURL)
	s.expect("PUT\r\na\r\nb\r\n")
	s.expect("seen\r\n")
	s.typed(ctrlC)
	s.end()
}

func TestALockIsGivenBackOnCtrlC(t *testing.T) {
	t.Parallel()
	m, kvctl := member(t)
	first := open(t, kvctl, 80, "lock", "door", "--ttl", "60", "--endpoints", m.ClientURL)
	first.expect("door/")
	second := open(t, kvctl, 80, "lock", "door", "--endpoints", m.ClientURL, "--", "sh", "-c", "echo in $KVD_LOCK_KEY; exit 7")
	first.typed(ctrlC)
	first.mustEnd()
	second.expect("in door/")
	if code, text := second.end(); code != 7 {
		t.Errorf("exit code %d, the command's is 7:\n%q", code, text)
	}
	if got := kvctl.MustRun(t, "get", "door", "--prefix", "--endpoints", m.ClientURL); got != "" {
		t.Errorf("left in the cluster: %q", got)
	}
	office := open(t, kvctl, 80, "elect", "office", "me", "--endpoints", m.ClientURL)
	office.expect("me\r\n")
	office.typed(ctrlC)
	office.mustEnd()
	if got := kvctl.MustRun(t, "lease", "list", "--endpoints", m.ClientURL); got != "found 0 leases\n" {
		t.Errorf("left in the cluster: %q", got)
	}
}
