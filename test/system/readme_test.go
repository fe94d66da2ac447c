package system

import (
	"os"
	"strings"
	"testing"
)

// onBooted is the line before a block of the README that runs here.
const onBooted = "<!-- tested on a booted host -->"

// blocks are the README's, in order.
func blocks(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, part := range strings.Split(string(b), onBooted+"\n")[1:] {
		text, ok := strings.CutPrefix(part, "```sh\n")
		end := strings.Index(text, "\n```")
		if !ok || end < 0 {
			t.Fatalf("no shell block behind the mark: %.60q", part)
		}
		all = append(all, text[:end])
	}
	return all
}

// TestTheREADMEsServiceChapterHoldsWordForWord runs the chapter's blocks on a
// host that has the clone's dist directory, one after the other.
func TestTheREADMEsServiceChapterHoldsWordForWord(t *testing.T) {
	t.Parallel()
	all := blocks(t)
	if len(all) < 5 {
		t.Fatalf("%d blocks are marked", len(all))
	}
	h := newHost(t, "readme")
	h.run("ln -s /packages/dist /root/dist")
	for _, block := range all {
		name, _, _ := strings.Cut(block, "\n")
		h.step(name, func() {
			h.write("/root/block", block)
			out := h.run("sh -e /root/block </dev/null")
			for command, shown := range shows {
				if strings.Contains(block, command) && !strings.Contains(out, shown) {
					h.t.Errorf("%s: nothing of %q in\n%s", command, shown, out)
				}
			}
		})
	}
	h.says("test -e /etc/kvd || test -e /var/lib/kvd || test -e /usr/bin/kvd || echo gone", "gone")
}

// shows is what commands of the chapter print, among other things.
var shows = map[string]string{
	"systemctl status kvd\n":     `Status: "leader, term 2, 1 of 1 members up, `,
	"kvctl put greeting":         "OK",
	"get greeting":               "hello",
	"systemctl start kvd-backup": "is verified",
	"ls /var/backups/kvd":        ".db",
	"journalctl -u kvd\n":        "ready to serve client requests",
	"-o verbose":                 "MESSAGE=",
	"endpoint health":            "is healthy",
}
