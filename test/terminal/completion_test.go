package terminal

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kvd/test/oracle"
)

// shell opens a bash that completes the command lines of kvctl.
func shell(t *testing.T, kvctl oracle.Binary, endpoint string) *screen {
	t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash here")
	}
	script := filepath.Join(t.TempDir(), "rc")
	text := "PS1='ready> '\nbind 'set bell-style none'\nbind 'set enable-bracketed-paste off'\nexport KVCTL_ENDPOINTS=" + endpoint +
		"\nkvctl() { " + kvctl.Path + " \"$@\"; }\nsource <(kvctl completion bash)\n"
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, oracle.Binary{Name: "bash", Path: bash}, 200, "--noprofile", "--rcfile", script, "-i")
	s.expect("ready> ")
	return s
}

// completed presses the key for completion until want is there: a cluster that
// does not answer within a second completes nothing.
func (s *screen) completed(want string) {
	s.t.Helper()
	for over := time.Now().Add(within); ; {
		s.typed("\t")
		for waited := time.Now().Add(10 * time.Second); time.Now().Before(waited); time.Sleep(10 * time.Millisecond) {
			s.mu.Lock()
			at := strings.Index(s.text[s.seen:], want)
			if at >= 0 {
				s.seen += at + len(want)
				s.mu.Unlock()
				return
			}
			s.mu.Unlock()
		}
		if time.Now().After(over) {
			s.t.Fatalf("no %q came on the screen:\n%q", want, s.all())
		}
	}
}

func TestTheShellCompletesKeyPrefixesAndMembers(t *testing.T) {
	t.Parallel()
	m, kvctl := member(t)
	for _, key := range []string{"config/web/port", "config/web/host", "colour", "a:b:one"} {
		kvctl.MustRun(t, "put", key, "x", "--endpoints", m.ClientURL)
	}
	s := shell(t, kvctl, m.ClientURL)
	s.typed("kvctl get conf")
	s.expect("kvctl get conf")
	s.completed("ig/") // and no space behind it
	s.completed("web/")
	s.typed("p")
	s.completed("ort")
	s.typed("\n")
	s.expect("config/web/port\r\nx\r\n")
	s.expect("ready> ")
	s.typed("kvctl get a:b:")
	s.completed("one ")
	s.typed("\n")
	s.expect("a:b:one\r\nx\r\n")
	s.expect("ready> ")
	s.typed("kvctl move-leader m")
	s.completed("1 ")
	s.typed("\n")
	s.expect("Leadership transferred") // a member may be named
	s.expect("ready> ")
	s.typed("kvctl endpoint hash")
	s.completed("kv ")
	s.typed("-w js")
	s.completed("on")
	s.typed("\n")
	s.expect(`"hash":`)
	s.expect("ready> ")
	s.typed("exit\n")
	s.mustEnd()
}
